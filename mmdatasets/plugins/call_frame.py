"""What a processor's call puts around every text, where it does: Molmo2's end of a turn, Chameleon's separator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.tokenise import IGNORE_INDEX, Edit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.options import MediaOptions
    from mmdatasets.plugins.base import BasePlugin


@dataclass(frozen=True, slots=True)
class CallFrame:
    """Special tokens around a text.

    Attributes:
        before: Those before it.
        after: Those behind it.
        repeats: Whether they are put there also where the text begins or ends with them.
    """

    before: str = ""
    after: str = ""
    repeats: bool = False

    def edits(self, text: str) -> list[Edit]:
        """The edits that put them around a rendered text."""
        edits = []
        if self.before and (self.repeats or not text.startswith(self.before)):
            edits.append(Edit(0, 0, self.before))
        if self.after and (self.repeats or not text.endswith(self.after)):
            edits.append(Edit(len(text), len(text), self.after))
        return edits

    def around_ids(
        self, input_ids: list[int], labels: list[int] | None, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[int], list[int] | None]:
        """Puts their ids around a tokenised row. Those behind an answer, which end it, are trained."""
        before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (self.before, self.after))
        if not self.repeats:
            before = [] if input_ids[: len(before)] == before else before
            after = [] if input_ids[len(input_ids) - len(after) :] == after else after
        if labels is not None:
            trained = bool(labels) and labels[-1] != IGNORE_INDEX
            ending = after if trained else [IGNORE_INDEX] * len(after)
            labels = [*[IGNORE_INDEX] * len(before), *labels, *ending]
        return [*before, *input_ids, *after], labels

    def in_template(self, source: str) -> str:
        """A chat template whose texts have them already."""
        before, after = (f"{{{{ {json.dumps(text)} }}}}" for text in (self.before, self.after))
        return f"{before}{source}{after}"


def frames_between(
    ours: Sequence[int], theirs: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Iterator[CallFrame]:
    """The frames that would make a call's token ids of a plugin's; none where special tokens around do not explain it.

    Args:
        ours: The plugin's ids of a text.
        theirs: The call's.
        tokenizer: Their tokenizer.
    """
    own, added = list(ours), tokenizer.added_tokens_decoder
    for start in range(len(theirs) - len(own) + 1):
        around = (theirs[:start], theirs[start + len(own) :])
        if list(theirs[start : start + len(own)]) == own and all(
            token in added and added[token].special for side in around for token in side
        ):
            before, after = ("".join(added[token].content for token in side) for side in around)
            yield from (CallFrame(before, after, repeats) for repeats in (False, True))


class FramedEngine(Engine):
    """An engine that puts a frame around texts.

    Args:
        plugin: Gives the family's rules and the settings.
        processor: The model's processor.
        options: How media is read and sized.
        frame: The frame.
    """

    def __init__(
        self,
        plugin: BasePlugin,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        options: MediaOptions,
        frame: CallFrame | None = None,
    ) -> None:
        super().__init__(plugin, processor, options)
        self.frame = frame or CallFrame()

    def for_plugin(self, plugin: BasePlugin) -> FramedEngine:
        """The same for a plugin with other settings."""
        return FramedEngine(plugin, self.runner.processor, self.options, self.frame)
