"""What the conformance suite puts every family through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Message: TypeAlias = dict[str, object]
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One conversation.

    Attributes:
        messages: Turns with typed content parts; `{"type": "image"}` for each image.
        images: Width and height of each image, in the order of the text.
    """

    messages: list[Message]
    images: tuple[Size, ...] = ()

    @property
    def answers(self) -> list[str]:
        """What the assistant says, turn by turn."""
        return [
            "".join(str(part["text"]) for part in message["content"])  # type: ignore[attr-defined]
            for message in self.messages
            if message["role"] == "assistant"
        ]


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
    def has_images(self) -> bool:
        """Whether any row has an image."""
        return any(row.images for row in self.rows)


def row(*turns: Sequence[str | Size]) -> Row:
    """Makes a row of alternating user and assistant turns; a turn is texts, and image sizes where images stand."""
    images: list[Size] = []
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        parts: list[dict[str, str]] = []
        for item in turn:
            if isinstance(item, str):
                parts.append({"type": "text", "text": item})
            else:
                parts.append({"type": "image"})
                images.append(item)
        messages.append({"role": "assistant" if index % 2 else "user", "content": parts})
    return Row(messages, tuple(images))


_PHOTO, _WIDE_PHOTO = (320, 240), (500, 200)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("one image", (row([_PHOTO, "What is this?"], ["A cat."]),)),
    Scenario("two images", (row([_PHOTO, "and", _WIDE_PHOTO, "differ how?"], ["In width."]),)),
    Scenario("tall", (row([(60, 900), "What is this?"], ["A tower."]),)),
    Scenario("wide", (row([(1200, 90), "What is this?"], ["A panorama."]),)),
    Scenario("tiny", (row([(7, 5), "What is this?"], ["An icon."]),)),
    Scenario(
        "huge",
        (row([(4000, 3000), "What is this?"], ["A landscape."]),),
        too_large_for_models="attention over this many patches takes more memory than a test machine has",
    ),
    Scenario(
        "several turns",
        (
            row(
                [_PHOTO, "What is this?"],
                ["A cat."],
                ["And this?", (200, 260)],
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
            row([(200, 260), (330, 330), "Compare."], ["The second one is larger than the first one."]),
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
)
