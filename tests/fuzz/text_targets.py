"""What reads rows of text: given random rows, it gives a result that holds, or one of its documented errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import get_args

from mmdatasets.chat.formats import PLACEHOLDERS, Unplaced, _split_text, as_string, check_placeholders, normalise
from mmdatasets.chat.layouts import LAYOUTS, CallForm, find_layout, read_tools
from mmdatasets.chat.preferences import find_preferences
from mmdatasets.errors import ConversationError, MediaError, MMDatasetsError, PlaceholderError
from mmdatasets.media.clip import split_clip
from mmdatasets.media.source import describe_source, to_stored
from mmdatasets.transforms.row_log import row_digest
from mmdatasets.types import MODALITIES
from tests.fuzz import values
from tests.fuzz.driver import Targets

CALL_FORMS: Sequence[CallForm] = get_args(CallForm)


def try_normalise(random: Random) -> str:
    """`normalise` of a chat and its media: nothing is lost, nothing is added."""
    given = values.chat(random)
    media = {modality: values.references(random) for modality in MODALITIES if random.random() < 0.8}
    if random.random() < 0.7:
        media = {modality: values.fitting_references(random, modality, given) for modality in MODALITIES}
    unplaced = random.choice(get_args(Unplaced))
    try:
        found = normalise(given, media, unplaced=unplaced)
    except (ConversationError, PlaceholderError) as error:
        return type(error).__name__
    types = Counter(
        part["type"] for message in found.messages for part in message.get("content", ()) if isinstance(part, dict)
    )
    for modality in MODALITIES:
        assert types[modality] == len(found.references(modality))
        own = [item for item in media.get(modality) or () if isinstance(item, str)]
        assert [item for item in found.references(modality) if isinstance(item, str) and item in own][
            : len(own)
        ] == own
    for message in found.messages:
        assert isinstance(as_string(message, PLACEHOLDERS).get("content"), str | None)
    return "result"


def try_split(random: Random) -> str:
    """Splitting at placeholders, which may be any texts: joined again, it is the text."""
    names = [values.text(random) if random.random() < 0.4 else PLACEHOLDERS[own] for own in MODALITIES]
    placeholders = dict(zip(MODALITIES, names, strict=True))
    try:
        check_placeholders(placeholders)
    except ValueError:
        return "ValueError"
    text = "".join(random.choice((*names, values.text(random))) for _ in range(random.randrange(8)))
    parts = _split_text(text, placeholders)
    assert "".join(str(part.get("text", placeholders.get(part["type"]))) for part in parts) == text
    assert all(part["text"] for part in parts if part["type"] == "text")
    return "result"


def try_layout(random: Random) -> str:
    """A row of any layout, read as whatever its columns say, or as another."""
    row = values.row(random)
    layout = random.choice(LAYOUTS) if random.random() < 0.2 else None
    booleans = {name for name, item in row.items() if isinstance(item, bool)}
    try:
        found = find_layout(row, layout, random.choice(("messages", "messages", "prompt")), booleans)
        own = {name: row[name] for name in found.consumed(row)}
        messages = found.messages(own, calls=random.choice(CALL_FORMS))
        read_tools(own.get("tools"))
        normalise(messages, {modality: row.get(f"{modality}s") for modality in MODALITIES})
    except ConversationError as error:
        return type(error).__name__
    return "result"


def try_preferences(random: Random) -> str:
    """A row of preference data, or none."""
    row = values.row(random)
    layout = random.choice(LAYOUTS) if random.random() < 0.1 else None
    try:
        found = find_preferences(row, layout)
        own = {name: row[name] for name in found.consumed(row)}
        chats = found.conversations(own, calls=random.choice(CALL_FORMS))
        assert len(chats) == (2 if found.is_paired else 1)
        if not found.is_paired:
            found.verdict_of(row)
        for chat in chats:
            normalise(chat, {modality: row.get(f"{modality}s") for modality in MODALITIES})
    except ConversationError as error:
        return type(error).__name__
    return "result"


def try_tools(random: Random) -> str:
    """A column of tools."""
    try:
        found = read_tools(values.tools(random))
    except ConversationError as error:
        return type(error).__name__
    assert all(isinstance(tool, Mapping) for tool in found)
    return "result"


def try_reference(random: Random) -> str:
    """Any value as a media reference: it is described, told from others, and stored or refused."""
    reference = values.value(random)
    described = describe_source(reference)
    assert isinstance(described, str)
    described.encode()
    assert len(row_digest({"a": reference})) == 32
    try:
        split_clip(reference)
        stored = to_stored(reference)
    except MediaError as error:
        str(error).encode("utf-8", "backslashreplace")
        return type(error).__name__
    assert set(stored) == {"bytes", "path"}
    return "result"


class Transform:
    """The whole transform: rows of hostile columns are dropped, the others made.

    Args:
        log: Directory for the table of rows that are dropped.
    """

    def __init__(self, log: str) -> None:
        from mmdatasets import auto_plugin
        from mmdatasets.testing.processors import build_processor

        self._plugin = auto_plugin(
            build_processor("qwen2_vl"), on_error="quarantine", row_log=log, max_consecutive=None
        )

    def __call__(self, random: Random) -> str:
        """Maps a batch of two rows."""
        row = values.row(random)
        batch = {name: [item, item] for name, item in row.items()}
        method = self._plugin.preference_transform if "chosen" in row or "label" in row else self._plugin.transform
        try:
            made = method(batch)
        except MMDatasetsError as error:
            return type(error).__name__
        return "result" if len(made["input_ids" if "input_ids" in made else next(iter(made))]) else "dropped"


READERS: Targets = {
    "normalise": (try_normalise, 35),
    "split": (try_split, 20),
    "layouts": (try_layout, 20),
    "preferences": (try_preferences, 15),
    "tools": (try_tools, 5),
    "references": (try_reference, 3),
}


def all_targets(log: str) -> Targets:
    """The readers of rows, and the whole transform, whose table of dropped rows is written to a directory."""
    return {**READERS, "transform": (Transform(log), 2)}
