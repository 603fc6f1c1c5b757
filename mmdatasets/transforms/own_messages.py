"""For plugins with a `process_messages` of their own: the transform goes by the text that it writes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdatasets.chat.control_tokens import blank_marked
from mmdatasets.chat.formats import PLACEHOLDERS, Conversation, as_string
from mmdatasets.chat.template import Rendered
from mmdatasets.chat.traced import Span
from mmdatasets.errors import PlaceholderError, TemplateError
from mmdatasets.types import Expansion

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin


def render_own_messages(plugin: BasePlugin, conversation: Conversation) -> Rendered:
    """Renders the strings that a plugin's own `process_messages` makes of a row.

    It gets what its users write: strings with a placeholder for each image, control tokens in them marked.

    Raises:
        PlaceholderError: If a placeholder stands in the text literally, which strings cannot tell apart.
    """
    placeholder = PLACEHOLDERS["image"]
    messages = [as_string(plugin.engine.guard.mark(message), placeholder) for message in conversation.messages]
    found = sum(str(message.get("content", "")).count(placeholder) for message in messages)
    if found != len(conversation.images):
        raise PlaceholderError(
            f"{found} {placeholder!r} for {len(conversation.images)} image(s): beside images, this plugin's own "
            "process_messages cannot take the placeholder as text"
        )
    own = plugin.process_messages(messages, conversation.images, [], [], plugin.engine.runner.processor)
    return plugin.engine.template.render(own)


def find_runs(text: str, media_token: str) -> list[Span]:
    """Where runs of the media token stand, the ones that a user typed left out."""
    return [match.span() for match in re.finditer(f"(?:{re.escape(media_token)})+", blank_marked(text))]


def share_runs(runs: Sequence[Span], token_length: int, planned: Sequence[Expansion]) -> list[list[Span]]:
    """Which runs belong to which item, going by how many tokens each item was planned to have.

    Args:
        runs: Character ranges of the runs, in the order of the text. Adjacent items make one run, which is divided.
        token_length: Characters of the media token.
        planned: What each item becomes.

    Returns:
        For each item the ranges of its runs.

    Raises:
        TemplateError: If the runs do not add up to the items.
    """
    left = deque(runs)
    shared: list[list[Span]] = []
    for expansion in planned:
        missing, mine = expansion.num_media_tokens * token_length, []
        while missing and left:
            start, end = left.popleft()
            cut = min(end, start + missing)
            mine.append((start, cut))
            missing -= cut - start
            if cut < end:
                left.appendleft((cut, end))
        if missing:
            break
        shared.append(mine)
    if left or len(shared) != len(planned):
        lengths = [(end - start) // token_length for start, end in runs]
        wanted = [expansion.num_media_tokens for expansion in planned]
        raise TemplateError(
            f"process_messages and the chat template wrote runs of {lengths} media tokens, but the images make "
            f"{wanted} features"
        )
    return shared
