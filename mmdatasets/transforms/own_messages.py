"""For plugins with a `process_messages` of their own: the transform goes by the text that it writes."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmdatasets.chat.control_tokens import blank_marked
from mmdatasets.chat.formats import PLACEHOLDERS, Conversation, Message, as_string
from mmdatasets.chat.template import Rendered
from mmdatasets.errors import PlaceholderError, TemplateError
from mmdatasets.planning.runs import expand_runs
from mmdatasets.transforms.planned import numbered, plan_media
from mmdatasets.types import Expansion, Modality

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine


@dataclass(frozen=True, slots=True)
class Run:
    """Where a media token is repeated in a text: characters, and the token."""

    start: int
    end: int
    token: str

    @property
    def length(self) -> int:
        """How often the token stands there."""
        return (self.end - self.start) // len(self.token)


def write_messages(plugin: BasePlugin, engine: Engine, conversation: Conversation) -> list[Message]:
    """Writes each media item of a conversation as the text that the model's tokenizer turns into its tokens.

    Returns:
        New messages with string contents.

    Raises:
        MediaError: If an item cannot be used. Names column, index and source.
    """
    divided, media = plan_media(engine, conversation)
    supply = iter(zip(media.items, numbered(plugin, engine, media), strict=True))
    seen: Counter[Modality] = Counter()

    def written(part: Mapping[str, object]) -> str:
        if part["type"] == "text":
            return str(part["text"])
        item, expansion = next(supply)
        modality, index = item.modality, seen[item.modality]
        seen[modality] += 1
        before, after = engine.markup(modality, index) if engine.takes_parts(modality) else ("", "")
        token = getattr(plugin, f"{modality}_token") or engine.runner.placeholders[modality]
        text = expand_runs(expansion, engine.runner.feature_tokens.values()) if plugin.expand_mm_tokens else token
        return f"{before}{text}{after}"

    result: list[Message] = []
    for message in divided.messages:
        content = message.get("content")
        text = "".join(map(written, content)) if isinstance(content, list) else content
        result.append({**message, "content": text} if "content" in message else dict(message))
    return result


def render_own_messages(plugin: BasePlugin, conversation: Conversation) -> Rendered:
    """Renders the strings that a plugin's own `process_messages` makes of a row.

    It gets what its users write: strings with a placeholder for each item, control tokens in them marked.

    Raises:
        PlaceholderError: If a placeholder stands in the text literally, which strings cannot tell apart.
    """
    messages = [as_string(plugin.engine.guard.mark(message), PLACEHOLDERS) for message in conversation.messages]
    media = {modality: conversation.references(modality) for modality in PLACEHOLDERS}
    for modality, placeholder in PLACEHOLDERS.items():
        found, items = sum(str(one.get("content", "")).count(placeholder) for one in messages), media[modality]
        if items and found != len(items):
            raise PlaceholderError(
                f"{found} {placeholder!r} for {len(items)} {modality}(s): beside media, this plugin's own "
                "process_messages cannot take the placeholder as text"
            )
    processor = plugin.engine.runner.processor
    own = plugin.process_messages(messages, media["image"], media["video"], media["audio"], processor)
    return plugin.engine.template_for(conversation).render(own)


def find_runs(text: str, media_tokens: Sequence[str]) -> list[Run]:
    """Where runs of media tokens stand, the ones that a user typed left out."""
    pattern = "|".join(f"({re.escape(token)})(?:{re.escape(token)})*" for token in media_tokens)
    found = re.finditer(pattern, blank_marked(text))
    return [Run(*match.span(), next(filter(None, match.groups()))) for match in found]


def share_runs(runs: Sequence[Run], planned: Sequence[Expansion]) -> list[list[Run]]:
    """Which runs belong to which item, going by how many tokens each item was planned to have.

    Args:
        runs: The runs, in the order of the text. Adjacent items make one run, which is divided.
        planned: What each item becomes.

    Returns:
        For each item its runs.

    Raises:
        TemplateError: If the runs do not add up to the items.
    """
    left = deque(runs)
    shared: list[list[Run]] = []
    for expansion in planned:
        missing: int = expansion.num_media_tokens
        mine: list[Run] = []
        while missing and left:
            run = left.popleft()
            taken = min(run.length, missing)
            cut = run.start + taken * len(run.token)
            mine.append(replace(run, end=cut))
            missing -= taken
            if cut < run.end:
                left.appendleft(replace(run, start=cut))
        if missing:
            break
        shared.append(mine)
    if left or len(shared) != len(planned):
        lengths, wanted = [run.length for run in runs], [expansion.num_media_tokens for expansion in planned]
        raise TemplateError(
            f"process_messages and the chat template wrote runs of {lengths} media tokens, but the media make "
            f"{wanted} features"
        )
    return shared
