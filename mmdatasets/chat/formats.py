"""Chat formats, normalised: one conversation of messages with typed content parts, and its media in text order."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mmdatasets.errors import ConversationError, PlaceholderError
from mmdatasets.types import MODALITIES, MediaItem, Modality

if TYPE_CHECKING:
    from mmdatasets.types import MediaPlan, MediaReference

Part: TypeAlias = dict[str, object]
Message: TypeAlias = dict[str, object]
MediaColumns: TypeAlias = "Mapping[Modality, Sequence[MediaReference] | None]"
"""A row's media of each modality; `None` where the dataset has no such column."""

Unplaced: TypeAlias = Literal["error", "first_user"]
"""What becomes of a row's media that neither a placeholder nor a part has a place for.

- `"error"`: the row is refused;
- `"first_user"`: where the chat has no place for any item of a modality, all of them stand before the text of the
  first message of the user, images before videos before audio, as TRL takes images.
"""

PLACEHOLDERS: dict[Modality, str] = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
"""What a user writes in text for one media item, where nothing else is said."""

# Names of part types, which are also the keys that hold a part's reference, and further keys of those.
_PART_TYPES: dict[str, Modality] = {
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
_REFERENCE_KEYS = ("url", "path")
_SUPPORTED_PARTS = f"text, {', '.join(_PART_TYPES)}"


@dataclass(slots=True)
class Conversation:
    """A row's chat in the form in which chat templates take it.

    Attributes:
        messages: Each has a `role`, and `content` as a string or as parts (`{"type": "text", "text": ...}`,
            `{"type": "image"}`, likewise video and audio). Keys without a value are gone.
        media: The row's media in the order in which the text has it.
        tools: The tools that the chat template is to describe.
        plans: What is planned of each media item, where that is known already; `None` where headers are to tell.
        is_plain: Whether it is no chat but one text, which no chat template writes.
    """

    messages: list[Message]
    media: list[MediaItem] = field(default_factory=list)
    tools: Sequence[Mapping[str, object]] = ()
    plans: Sequence[Sequence[MediaPlan]] | None = None
    is_plain: bool = False

    def references(self, modality: Modality) -> list[MediaReference]:
        """The references of one modality, in the order of the text."""
        return [item.reference for item in self.media if item.modality == modality]


_HINT = "; or have media without a place stand before the first question (unplaced_media='first_user')"
_NO_MEDIA: MediaColumns = dict.fromkeys(MODALITIES, ())


def check_placeholders(placeholders: Mapping[Modality, str], unplaced: Unplaced = "error") -> None:
    """Checks that what is to stand for media items can be told apart in text, and what becomes of those without.

    Raises:
        ValueError: If a placeholder is empty or stands within another, or there is no such choice as `unplaced`.
    """
    if unplaced not in get_args(Unplaced):
        known = ", ".join(map(repr, get_args(Unplaced)))
        raise ValueError(f"unplaced_media={unplaced!r} is none of {known}")
    for modality, text in placeholders.items():
        if not text or not isinstance(text, str):
            raise ValueError(f"{modality}_placeholder must be a text such as '<{modality}>', got {text!r}")
        around = next((kind for kind, other in placeholders.items() if kind != modality and text in other), None)
        if around is not None:
            raise ValueError(
                f"{modality}_placeholder={text!r} stands within {around}_placeholder={placeholders[around]!r}: they "
                "could not be told apart"
            )


def normalise(
    messages: object,
    media: MediaColumns = _NO_MEDIA,
    placeholders: Mapping[Modality, str] = PLACEHOLDERS,
    unplaced: Unplaced = "error",
) -> Conversation:
    """Brings one row into the form that the chat template takes.

    Placeholders (`<image>`, say) in text and media parts without a reference of their own stand for the items of the
    row's media column, in order. Which placeholders are meant is decided by counting, never guessed, for each
    modality by itself:

    0. without a column at all, `<image>` outside of answers is refused: the column has another name, say;
    1. if the image parts alone match the number of images, `<image>` in text is just text;
    2. else if parts and placeholders of all messages together match, each placeholder is an image;
    3. else if those outside of assistant turns match, the ones in answers are just text;
    4. else the row is refused.

    Args:
        messages: Mappings with `role` and `content`, the content a string or a list of parts.
        media: The row's media columns. A modality that is left out counts as a column that the dataset lacks.
        placeholders: What stands in text for an item of each modality.
        unplaced: What becomes of media that the chat has no place for.

    Raises:
        ConversationError: If `messages` has another shape.
        PlaceholderError: If placeholders and media cannot be matched.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or len(messages) == 0:
        raise ConversationError(
            f"expected a non-empty list of messages with 'role' and 'content', got {_describe(messages)}"
        )
    cleaned = [_clean_message(message, index) for index, message in enumerate(messages)]
    media = {modality: _listed(items, modality) for modality, items in media.items()}
    if unplaced == "first_user":
        cleaned = _with_unplaced(cleaned, media, placeholders)
    roles = {
        modality: _roles_with_placeholders(cleaned, modality, placeholders[modality], media.get(modality))
        for modality in MODALITIES
    }
    supply = {modality: iter(media.get(modality) or ()) for modality in MODALITIES}
    ordered: list[MediaItem] = []
    result = []
    for message in cleaned:
        meant = {modality: placeholders[modality] for modality in MODALITIES if message["role"] in roles[modality]}
        result.append(_place(message, supply, ordered, meant))
    return Conversation(result, ordered)


def _listed(items: object, modality: Modality) -> Sequence[MediaReference] | None:
    """A row's media of a modality, checked to be several: arrays are no sequences by their type."""
    if items is None or (isinstance(items, Sequence) and not isinstance(items, str | bytes | bytearray)):
        return items
    if hasattr(items, "tolist") and getattr(items, "ndim", 0) > 0:
        return list(items)  # type: ignore[call-overload,no-any-return] # of arrays and tensors
    raise ConversationError(f"a row's {modality}s must be a list, got {_describe(items)}")


def _describe(value: object) -> str:
    return "an empty list" if isinstance(value, Sequence) and len(value) == 0 else type(value).__name__


def _parts(message: Message) -> list[Part]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _clean_message(message: object, index: int) -> Message:
    if not isinstance(message, Mapping):
        raise ConversationError(
            f"message {index} must be a mapping with 'role' and 'content', got {_describe(message)}"
        )
    cleaned = {key: value for key, value in message.items() if value is not None}
    if not isinstance(cleaned.get("role"), str):
        raise ConversationError(f"message {index} has no 'role' (found the keys {', '.join(map(str, message))})")
    content = cleaned.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        cleaned["content"] = [_clean_part(part, index) for part in content]
    elif content is None and len(cleaned) > 1:
        pass  # an assistant turn of tool calls or reasoning alone
    elif not isinstance(content, str):
        raise ConversationError(
            f"message {index} needs 'content' as a string or a list of parts, got {_describe(content)}"
        )
    return cleaned


def _clean_part(part: object, index: int) -> Part:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise ConversationError(f"message {index} has a content part that is no mapping: {_describe(part)}")
    cleaned = {key: value for key, value in part.items() if value is not None}
    kind = cleaned.get("type")
    if kind is None or (isinstance(kind, str) and not kind):
        kind = next((key for key in ("text", *_PART_TYPES) if key in cleaned), None)
    if kind is None and any(key in cleaned for key in _REFERENCE_KEYS):
        kind = "image"
    if isinstance(kind, str) and kind == "text" and isinstance(cleaned.get("text"), str):
        return {"type": "text", "text": cleaned["text"]}
    modality = _PART_TYPES.get(str(kind))
    if modality is not None:
        keys = [key for key, meant in _PART_TYPES.items() if meant == modality]
        reference = next((cleaned[key] for key in (*keys, *_REFERENCE_KEYS) if key in cleaned), None)
        return {"type": modality} if reference is None else {"type": modality, modality: _unwrapped(reference, index)}
    raise ConversationError(
        f"message {index} has a content part of type {kind!r} with the keys {', '.join(map(str, cleaned))}; "
        f"supported: {_SUPPORTED_PARTS}"
    )


def _unwrapped(reference: object, index: int) -> object:
    """The reference itself, where OpenAI's form wraps it: `{"url": ...}`, or audio as `{"data": base64, "format"}`."""
    if isinstance(reference, Mapping) and "url" in reference:
        return reference["url"]
    if isinstance(reference, Mapping) and isinstance(reference.get("data"), str):
        try:
            return base64.b64decode(reference["data"], validate=True)
        except ValueError as error:
            raise ConversationError(f"message {index} has audio whose data is not valid base64: {error}") from error
    return reference


def _count_placeholders(message: Message, placeholder: str) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return content.count(placeholder)
    return sum(str(part["text"]).count(placeholder) for part in _parts(message) if part["type"] == "text")


def _num_open_parts(messages: Sequence[Message], modality: Modality) -> int:
    """How many parts stand for items of a modality's column."""
    return sum(part["type"] == modality and modality not in part for message in messages for part in _parts(message))


def _with_unplaced(
    messages: list[Message], media: MediaColumns, placeholders: Mapping[Modality, str]
) -> list[Message]:
    """The chat with parts in its first question for the modalities that it has no place for."""
    asked = [message for message in messages if message["role"] != "assistant"]
    parts: list[Part] = []
    for modality in MODALITIES:
        written = sum(_count_placeholders(message, placeholders[modality]) for message in asked)
        if not written and not _num_open_parts(messages, modality):
            parts += [{"type": modality} for _ in media.get(modality) or ()]
    first = next((at for at, message in enumerate(messages) if message["role"] == "user"), None)
    if not parts or first is None:
        return messages
    content = messages[first].get("content")
    said = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    return [*messages[:first], {**messages[first], "content": [*parts, *said]}, *messages[first + 1 :]]


def _roles_with_placeholders(
    messages: Sequence[Message], modality: Modality, placeholder: str, items: Sequence[MediaReference] | None
) -> frozenset[str]:
    """The roles in whose text a placeholder of a modality stands for an item."""
    counts = [(message["role"] == "assistant", _count_placeholders(message, placeholder)) for message in messages]
    in_answers = sum(count for is_answer, count in counts if is_answer)
    elsewhere = sum(count for is_answer, count in counts if not is_answer)
    if items is None and elsewhere:
        raise PlaceholderError(
            f"the text has {elsewhere} {placeholder!r}, but the rows have no column with {modality}s, or null in it: "
            f"name it with {modality}s_column=..., or give each row an empty list of {modality}s where the text is "
            "meant literally"
        )
    num_items = len(items or ())
    num_parts = _num_open_parts(messages, modality)
    everyone = frozenset(str(message["role"]) for message in messages)
    if num_parts == num_items:
        return frozenset()
    if num_parts + elsewhere + in_answers == num_items:
        return everyone
    if num_parts + elsewhere == num_items:
        return everyone - {"assistant"}
    raise PlaceholderError(
        f"the messages have {num_parts + elsewhere + in_answers} {modality} placeholder(s) ({num_parts} {modality} "
        f"part(s), {elsewhere + in_answers} {placeholder!r} in text, {in_answers} of those in assistant turns), the "
        f"row has {num_items} {modality}(s): write one {placeholder!r} or one {{'type': '{modality}'}} part for each "
        f"{modality}, in order{'' if num_parts + elsewhere + in_answers else _HINT}"
    )


def _place(
    message: Message,
    supply: Mapping[Modality, Iterator[MediaReference]],
    ordered: list[MediaItem],
    meant: Mapping[Modality, str],
) -> Message:
    """The message with a part for each item; the items join `ordered`."""
    content = message.get("content")
    if isinstance(content, str):
        if not any(placeholder in content for placeholder in meant.values()):
            return message
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return message
    placed: list[Part] = []
    for part in content:
        pieces = _split_text(str(part["text"]), meant) if meant and part["type"] == "text" else [part]
        for piece in pieces:
            modality = _PART_TYPES.get(str(piece["type"]))
            if modality is None:
                placed.append(piece)
                continue
            reference = piece[modality] if modality in piece else next(supply[modality])
            # Streams decode columns of videos and audio: what a decoder of `datasets` was made of is the reference.
            reference = getattr(reference, "_hf_encoded", None) or reference
            ordered.append(MediaItem(modality, reference))  # type: ignore[arg-type]
            placed.append({"type": modality})
    return {**message, "content": placed}


def _split_text(text: str, meant: Mapping[Modality, str]) -> list[Part]:
    pieces: list[Part] = []
    last = 0
    modality_of = {placeholder: modality for modality, placeholder in meant.items()}
    for match in re.finditer("|".join(map(re.escape, modality_of)), text):
        pieces += [{"type": "text", "text": text[last : match.start()]}, {"type": modality_of[match.group()]}]
        last = match.end()
    pieces.append({"type": "text", "text": text[last:]})
    return [piece for piece in pieces if piece["type"] != "text" or piece["text"]]


def as_string(message: Message, placeholders: Mapping[Modality, str]) -> Message:
    """The message with its parts joined to one string, a placeholder where an item stands."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    written = (str(part["text"]) if part["type"] == "text" else placeholders[part["type"]] for part in content)
    return {**message, "content": "".join(written)}
