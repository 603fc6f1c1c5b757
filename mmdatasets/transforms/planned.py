"""What is planned of a row's media, and the conversation that goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmdatasets.types import Expansion, MediaItem, MediaPlan, Modality

if TYPE_CHECKING:
    from mmdatasets.chat.formats import Conversation, Message
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine


@dataclass(frozen=True, slots=True)
class PlannedMedia:
    """A row's media, in the order of the text. Audio that is divided into chunks is there once for each.

    Attributes:
        items: Where each plan's item is.
        positions: Which of the row's references of its modality that is.
        plans: What will be decoded.
        expansions: What each becomes in the text.
    """

    items: list[MediaItem]
    positions: list[int]
    plans: list[MediaPlan]
    expansions: list[Expansion]

    def in_order(self, order: Sequence[int]) -> PlannedMedia:
        """The same media in another order."""
        return PlannedMedia(
            [self.items[position] for position in order],
            [self.positions[position] for position in order],
            [self.plans[position] for position in order],
            [self.expansions[position] for position in order],
        )


def plan_media(engine: Engine, conversation: Conversation) -> tuple[Conversation, PlannedMedia]:
    """Plans a row's media, from headers where the conversation does not say what is planned.

    Returns:
        The conversation, with a part for each chunk of audio that is divided, and the plans.

    Raises:
        MediaError: If an item cannot be used. Names column, index and source.
    """
    reader = engine.media
    divided = reader.plan(conversation.media) if conversation.plans is None else conversation.plans
    seen: Counter[Modality] = Counter()
    items, positions = [], []
    for item, plans in zip(conversation.media, divided, strict=True):
        items += [item] * len(plans)
        positions += [seen[item.modality]] * len(plans)
        seen[item.modality] += 1
    if len(items) > len(conversation.media):
        chunked = _with_chunks(conversation.messages, [len(plans) for plans in divided])
        conversation = replace(conversation, messages=chunked, media=items, plans=None)
    flat = [plan for plans in divided for plan in plans]
    return conversation, PlannedMedia(items, positions, flat, reader.expand(items, flat))


def _with_chunks(messages: Sequence[Message], counts: Sequence[int]) -> list[Message]:
    """The messages with each media part as often as its item has chunks."""
    supply = iter(counts)
    result = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content for _ in range(1 if part["type"] == "text" else next(supply))]
            message = {**message, "content": parts}  # noqa: PLW2901
        result.append(message)
    return result


def numbered(plugin: BasePlugin, engine: Engine, media: PlannedMedia) -> list[Expansion]:
    """The expansions of a row's media, by families that number their items in the text with the numbers."""
    return plugin.number_expansions(engine, [item.modality for item in media.items], media.expansions)
