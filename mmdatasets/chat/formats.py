"""Chat formats, normalised: one conversation of messages with typed content parts, and its media in text order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.errors import ConversationError, PlaceholderError
from mmdatasets.types import Modality

if TYPE_CHECKING:
    from mmdatasets.types import ImageReference

Part: TypeAlias = dict[str, object]
Message: TypeAlias = dict[str, object]

PLACEHOLDERS: dict[Modality, str] = {"image": "<image>"}
"""What a user writes in text for one media item."""

_SPLITTER = re.compile("|".join(f"({re.escape(text)})" for text in PLACEHOLDERS.values()))
_IMAGE_KEYS = ("image", "url", "path", "image_url")
_SUPPORTED_PARTS = "text, image, image_url"


@dataclass(slots=True)
class Conversation:
    """A row's chat in the form in which chat templates take it.

    Attributes:
        messages: Each has a `role`, and `content` as a string or as parts (`{"type": "text", "text": ...}`,
            `{"type": "image"}`). Keys without a value are gone.
        images: The row's image references in the order in which the text has them.
    """

    messages: list[Message]
    images: list[ImageReference] = field(default_factory=list)


def normalise(messages: object, images: Sequence[ImageReference] | None = ()) -> Conversation:
    """Brings one row into the form that the chat template takes.

    Placeholders (`<image>`) in text and image parts without a reference of their own stand for the items of `images`,
    in order. Which placeholders are meant is decided by counting, never guessed:

    0. without an image column at all, `<image>` outside of answers is refused: the column has another name, say;
    1. if the image parts alone match the number of images, `<image>` in text is just text;
    2. else if parts and placeholders of all messages together match, each placeholder is an image;
    3. else if those outside of assistant turns match, the ones in answers are just text;
    4. else the row is refused.

    Args:
        messages: Mappings with `role` and `content`, the content a string or a list of parts.
        images: The row's image column; `None` where the dataset has none.

    Raises:
        ConversationError: If `messages` has another shape.
        PlaceholderError: If placeholders and images cannot be matched.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or len(messages) == 0:
        raise ConversationError(
            f"expected a non-empty list of messages with 'role' and 'content', got {_describe(messages)}"
        )
    cleaned = [_clean_message(message, index) for index, message in enumerate(messages)]
    parts = [part for message in cleaned for part in _parts(message)]
    num_free_parts = sum(part["type"] == "image" and "image" not in part for part in parts)
    if images is None:
        _refuse_placeholders(cleaned)
        images = ()
    roles = _placeholder_roles(cleaned, num_free_parts, len(images))
    supply = iter(images)
    ordered: list[ImageReference] = []
    result = [_place(message, supply, ordered, message["role"] in roles) for message in cleaned]
    return Conversation(result, ordered)


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
    kind = cleaned.get("type") or next((key for key in ("text", *_IMAGE_KEYS) if key in cleaned), None)
    if kind == "text" and isinstance(cleaned.get("text"), str):
        return {"type": "text", "text": cleaned["text"]}
    if kind in _IMAGE_KEYS:
        reference = next((cleaned[key] for key in _IMAGE_KEYS if key in cleaned), None)
        if isinstance(reference, Mapping) and "url" in reference:  # OpenAI: {"image_url": {"url": ...}}
            reference = reference["url"]
        return {"type": "image"} if reference is None else {"type": "image", "image": reference}
    raise ConversationError(
        f"message {index} has a content part of type {kind!r} with the keys {', '.join(map(str, cleaned))}; "
        f"supported: {_SUPPORTED_PARTS}"
    )


def _count_placeholders(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(_SPLITTER.findall(content))
    return sum(len(_SPLITTER.findall(str(part["text"]))) for part in _parts(message) if part["type"] == "text")


def _refuse_placeholders(messages: Sequence[Message]) -> None:
    found = sum(_count_placeholders(message) for message in messages if message["role"] != "assistant")
    if found:
        raise PlaceholderError(
            f"the text has {found} {PLACEHOLDERS['image']!r}, but the rows have no column with images: name it with "
            "images_column=..., or give each row an empty list of images where the text is meant literally"
        )


def _placeholder_roles(messages: Sequence[Message], num_parts: int, num_images: int) -> frozenset[str]:
    """The roles in whose text a placeholder stands for an image."""
    if num_parts == num_images:
        return frozenset()
    everyone = frozenset(str(message["role"]) for message in messages)
    total = num_parts + sum(map(_count_placeholders, messages))
    if total == num_images:
        return everyone
    answers = sum(_count_placeholders(message) for message in messages if message["role"] == "assistant")
    if total - answers == num_images:
        return everyone - {"assistant"}
    raise PlaceholderError(
        f"the messages have {total} image placeholder(s) ({num_parts} image part(s), {total - num_parts} "
        f"{PLACEHOLDERS['image']!r} in text, {answers} of those in assistant turns), the row has {num_images} "
        f"image(s): write one {PLACEHOLDERS['image']!r} or one {{'type': 'image'}} part for each image, in order"
    )


def _place(message: Message, supply: Iterator[ImageReference], ordered: list[ImageReference], split: bool) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        if not split or not _SPLITTER.search(content):
            return message
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return message
    placed: list[Part] = []
    for part in content:
        pieces = _split_text(str(part["text"])) if split and part["type"] == "text" else [part]
        for piece in pieces:
            if piece["type"] == "image":
                reference = piece.get("image")
                ordered.append(next(supply) if reference is None else reference)  # type: ignore[arg-type]
                placed.append({"type": "image"})
            else:
                placed.append(piece)
    return {**message, "content": placed}


def _split_text(text: str) -> list[Part]:
    pieces: list[Part] = []
    last = 0
    for match in _SPLITTER.finditer(text):
        pieces += [{"type": "text", "text": text[last : match.start()]}, {"type": "image"}]
        last = match.end()
    pieces.append({"type": "text", "text": text[last:]})
    return [piece for piece in pieces if piece["type"] != "text" or piece["text"]]


def as_string(message: Message, image: str) -> Message:
    """The message with its parts joined to one string, `image` where an image stands."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(str(part.get("text", image)) for part in content)}
