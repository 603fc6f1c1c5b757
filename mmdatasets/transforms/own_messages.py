"""For plugins with a `process_messages` of their own: the transform goes by the text that it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmdatasets.chat.control_tokens import END, START
from mmdatasets.chat.formats import PLACEHOLDERS, Conversation, Message
from mmdatasets.chat.template import Rendered
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
    messages = [_as_string(plugin.engine.guard.mark(message), placeholder) for message in conversation.messages]
    found = sum(str(message.get("content", "")).count(placeholder) for message in messages)
    if found != len(conversation.images):
        raise PlaceholderError(
            f"{found} {placeholder!r} for {len(conversation.images)} image(s): beside images, this plugin's own "
            "process_messages cannot take the placeholder as text"
        )
    own = plugin.process_messages(messages, conversation.images, [], [], plugin.engine.runner.processor)
    return plugin.engine.template.render(own)


def _as_string(message: Message, placeholder: str) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(str(part.get("text", placeholder)) for part in content)}


def find_runs(text: str, media_token: str) -> list[tuple[int, int]]:
    """Where runs of the media token stand, the ones that a user typed left out."""
    pattern = f"{START}.*?{END}|((?:{re.escape(media_token)})+)"
    return [match.span() for match in re.finditer(pattern, text, re.DOTALL) if match.group(1)]


def share_runs(lengths: Sequence[int], planned: Sequence[Expansion]) -> list[list[int]]:
    """Which runs belong to which item, going by how many tokens each item was planned to have.

    Args:
        lengths: Length of each run, in the order of the text.
        planned: What each item becomes.

    Returns:
        For each item the numbers of its runs.

    Raises:
        TemplateError: If the runs do not add up to the items.
    """
    numbers: Iterator[int] = iter(range(len(lengths)))
    shared: list[list[int]] = []
    for expansion in planned:
        mine: list[int] = []
        while sum(lengths[number] for number in mine) < expansion.num_media_tokens:
            number = next(numbers, None)
            if number is None:
                break
            mine.append(number)
        shared.append(mine)
    wanted = [expansion.num_media_tokens for expansion in planned]
    got = [sum(lengths[number] for number in mine) for mine in shared]
    if got != wanted or next(numbers, None) is not None:
        raise TemplateError(
            f"process_messages and the chat template wrote runs of {list(lengths)} media tokens, but the images make "
            f"{wanted} features"
        )
    return shared
