"""`on_overflow="drop_turns"`: a conversation without its oldest turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    from mmdatasets.chat.formats import Conversation, Message

_SYSTEM_ROLES = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class Shortened:
    """A conversation without its oldest turns.

    Attributes:
        conversation: What is left of it.
        turns_dropped: How many turns are gone.
        kept_media: Of each modality, which of the row's references are still there.
    """

    conversation: Conversation
    turns_dropped: int
    kept_media: dict[Modality, list[int]]


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Positions of the messages that turns begin with.

    A turn is what the user says, in one message or several in a row, with all that follows up to the next of these.
    What stands before the first of them, system prompts at the beginning left out, is a turn as well.
    """
    first = next((at for at, message in enumerate(messages) if message["role"] not in _SYSTEM_ROLES), len(messages))
    roles = [message["role"] for message in messages]
    users = [at for at in range(first + 1, len(messages)) if roles[at] == "user" and roles[at - 1] != "user"]
    return [first, *users] if first < len(messages) else []


def shortened(conversation: Conversation) -> Iterator[Shortened]:
    """The conversation without its oldest turn, without the two oldest, and so on; the last one always stays.

    System prompts at the beginning stay, with their media. What is planned of the media goes with it.
    """
    messages = conversation.messages
    starts = [] if conversation.is_plain else turn_starts(messages)
    num_items = [_num_items(message) for message in messages]
    numbers = _numbers(conversation)
    for dropped, start in enumerate(starts[1:], start=1):
        head = starts[0]
        gone = range(sum(num_items[:head]), sum(num_items[:start]))
        kept = [position for position in range(len(conversation.media)) if position not in gone]
        plans = conversation.plans
        left = replace(
            conversation,
            messages=[*messages[:head], *messages[start:]],
            media=[conversation.media[position] for position in kept],
            plans=None if plans is None else [plans[position] for position in kept],
        )
        by_modality: dict[Modality, list[int]] = {modality: [] for modality in MODALITIES}
        for position in kept:
            by_modality[conversation.media[position].modality].append(numbers[position])
        yield Shortened(left, dropped, by_modality)


def _num_items(message: Message) -> int:
    content = message.get("content")
    return sum(part["type"] != "text" for part in content) if isinstance(content, list) else 0


def _numbers(conversation: Conversation) -> list[int]:
    """Which of its modality each item is."""
    seen: Counter[Modality] = Counter()
    numbers = []
    for item in conversation.media:
        numbers.append(seen[item.modality])
        seen[item.modality] += 1
    return numbers
