"""What the conformance suite puts every family through: rows of text and media items of any modality, in text order.

A modality adds a `MediaSpec` (how its files are made) and scenarios; nothing else here knows of modalities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from mmdatasets.chat.formats import PLACEHOLDERS
from mmdatasets.testing.specs import AudioSpec, ClipSpec, ImageSpec, MediaSpec
from mmdatasets.types import Modality

T = TypeVar("T")

Part: TypeAlias = dict[str, object]
Message: TypeAlias = dict[str, object]
Chat: TypeAlias = list[Message]


@dataclass(frozen=True)
class Row:
    """One conversation.

    Attributes:
        messages: Turns with typed content parts; `{"type": "image"}` and its siblings for the media items.
        media: The media items, of whatever modalities, in the order of the text.
    """

    messages: Chat
    media: tuple[MediaSpec, ...] = ()

    @property
    def answers(self) -> list[str]:
        """What the assistant says, turn by turn."""
        return [_text(message) for message in self.messages if message["role"] == "assistant"]

    @property
    def strings(self) -> Chat:
        """The same turns as strings, a placeholder (`<image>`) where a media item stands."""
        return [{**message, "content": _text(message)} for message in self.messages]

    @property
    def mixed(self) -> Chat:
        """What `strings` says, in parts where a turn has media: what a placeholder in a string stands for."""
        turns = zip(self.messages, self.strings, strict=True)
        return [typed if any(p["type"] != "text" for p in parts_of(typed)) else string for typed, string in turns]

    def references(self, files: Sequence[str]) -> list[object]:
        """What stands for each of `media` in the data, given their files."""
        return [spec.reference(file) for spec, file in zip(self.media, files, strict=True)]

    def only(self, modality: Modality, items: Sequence[T]) -> list[T]:
        """Those of `items`, one for each of `media`, that are of a modality."""
        return [item for spec, item in zip(self.media, items, strict=True) if spec.modality == modality]


def parts_of(message: Message) -> list[Part]:
    """The content parts of a message; none where the content is a string."""
    content = message.get("content")
    return content if isinstance(content, list) else []


def _text(message: Message) -> str:
    return "".join(
        str(part["text"]) if part["type"] == "text" else PLACEHOLDERS[part["type"]]  # type: ignore[index]
        for part in parts_of(message)
    )


def with_media(messages: Chat, items: Sequence[object]) -> Chat:
    """Typed turns with the media references in their parts, which is the form that processors take.

    Args:
        messages: Turns; parts that are no text get a reference each, under their type's name.
        items: The references, in the order of the text.
    """
    supply = iter(items)

    def filled(part: Part) -> Part:
        kind = str(part["type"])
        return dict(part) if kind == "text" else {"type": kind, kind: next(supply)}

    return [
        {**message, "content": [filled(part) for part in parts_of(message)]} if parts_of(message) else dict(message)
        for message in messages
    ]


def media_in(chat: Chat) -> Iterator[tuple[str, object]]:
    """Type and reference of every media item of a chat, as `with_media` put them there."""
    for message in chat:
        for part in parts_of(message):
            if part["type"] != "text":
                yield str(part["type"]), part[str(part["type"])]


@dataclass(frozen=True)
class Scenario:
    """A batch of rows.

    Attributes:
        name: For reports.
        rows: The rows.
        too_large_for_models: Why no model is run, where that is so.
    """

    name: str
    rows: tuple[Row, ...]
    too_large_for_models: str = ""

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities of the rows' media items."""
        return frozenset(spec.modality for row in self.rows for spec in row.media)


def row(*turns: Sequence[str | MediaSpec]) -> Row:
    """Makes a row of alternating user and assistant turns; a turn is texts, and specs where media items stand."""
    media: list[MediaSpec] = []
    messages: Chat = []
    for index, turn in enumerate(turns):
        parts: list[Part] = []
        for item in turn:
            if isinstance(item, str):
                parts.append({"type": "text", "text": item})
            else:
                parts.append({"type": item.modality})
                media.append(item)
        messages.append({"role": "assistant" if index % 2 else "user", "content": parts})
    return Row(messages, tuple(media))


_PHOTO, _WIDE_PHOTO = ImageSpec(320, 240), ImageSpec(500, 200)
_CLIP, _OTHER_CLIP = ClipSpec(160, 96, (0, 3, 6, 9)), ClipSpec(112, 112, (1, 5, 8, 15))
_LONGER_CLIP = ClipSpec(128, 96, (0, 2, 5, 9, 11, 15))
_SPEECH, _OTHER_SPEECH = AudioSpec(1.3), AudioSpec(2.4, sampling_rate=44_100, num_channels=2)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("one image", (row([_PHOTO, "What is this?"], ["A cat."]),)),
    Scenario("two images", (row([_PHOTO, "and", _WIDE_PHOTO, "differ how?"], ["In width."]),)),
    Scenario("tall", (row([ImageSpec(60, 900), "What is this?"], ["A tower."]),)),
    Scenario("wide", (row([ImageSpec(1200, 90), "What is this?"], ["A panorama."]),)),
    Scenario("tiny", (row([ImageSpec(7, 5), "What is this?"], ["An icon."]),)),
    Scenario(
        "huge",
        (row([ImageSpec(4000, 3000), "What is this?"], ["A landscape."]),),
        too_large_for_models="attention over this many patches takes more memory than a test machine has",
    ),
    Scenario(
        "several turns",
        (
            row(
                [_PHOTO, "What is this?"],
                ["A cat."],
                ["And this?", ImageSpec(200, 260)],
                ["A dog: it barks."],
                ["Are you sure?"],
                ["Yes."],
            ),
        ),
    ),
    Scenario(
        "rows of different counts",
        (
            row([_PHOTO, "What is this?"], ["A cat."]),
            row(
                [ImageSpec(200, 260), ImageSpec(330, 330), "Compare."],
                ["The second one is larger than the first one."],
            ),
        ),
    ),
    Scenario("text only", (row(["What is a cat?"], ["An animal."]), row(["And what is a dog, then?"], ["Another."]))),
    Scenario(
        "mixed batch",
        (
            row(["What is a cat?"], ["An animal."]),
            row([_PHOTO, "What is this, please?"], ["A cat."]),
            row(["Thanks."], ["You are welcome."]),
        ),
    ),
    Scenario("one video", (row([_CLIP, "What happens?"], ["It moves."]),)),
    Scenario("two videos", (row([_CLIP, "and", _OTHER_CLIP, "differ how?"], ["In pace."]),)),
    Scenario(
        "rows of videos",
        (
            row([_CLIP, "What happens?"], ["It moves."]),
            row(["What is a video?"], ["Many images."]),
            row([_LONGER_CLIP, "And in this one, which is longer?"], ["It stops."]),
        ),
    ),
    Scenario("videos of different lengths", (row([_CLIP, _LONGER_CLIP, "Compare."], ["The second is longer."]),)),
    Scenario("image then video", (row([_PHOTO, "Is this in", _CLIP, "too?"], ["Yes."]),)),
    Scenario("video then image", (row([_CLIP, "Does it show", _PHOTO, "too?"], ["No."]),)),
    Scenario(
        "images and videos, mixed batch",
        (
            row([_LONGER_CLIP, "What happens?"], ["It moves."]),
            row([_PHOTO, "What is this?"], ["A cat."], ["And this?", _CLIP], ["A dog runs."]),
            row(["Thanks."], ["You are welcome."]),
        ),
    ),
    Scenario("audio", (row([_SPEECH, "What is said?"], ["Nothing."]),)),
    Scenario(
        "rows of audio",
        (
            row([_SPEECH, "What is said?"], ["Nothing."]),
            row(["What is a sound?"], ["A wave."]),
            row([_OTHER_SPEECH, "and", _SPEECH, "differ how?"], ["In length."]),
        ),
    ),
    Scenario("audio and image", (row([_SPEECH, "Does this fit", _PHOTO, "?"], ["No."]),)),
    Scenario(
        "audio, video and image",
        (row([_SPEECH, _CLIP, "What is it?"], ["Noise."], ["And", _PHOTO, "?"], ["A cat."]),),
    ),
)
