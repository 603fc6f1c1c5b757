"""Any processor of transformers that can say what a media item becomes in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.call_frame import FramedEngine
from mmdatasets.plugins.self_check import make_checked_engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.options import MediaOptions
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.transforms.tokenise import Edit
    from mmdatasets.types import MediaReference


@dataclass(eq=False)
class GenericPlugin(BasePlugin):
    """Works through the processor's own `replace_image_token` and its siblings; knows nothing of the family.

    So it compares itself with the processor's own call, on small probes, before it computes anything in a process.
    """

    items_are_independent: ClassVar[bool] = False
    outputs_are_stacked: ClassVar[bool] = False

    def make_engine(self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions) -> Engine:
        """What the plugin computes with.

        Raises:
            ProcessorMismatchError: If the processor does more in its call than its hooks tell.
        """
        return make_checked_engine(self, processor, options)

    def text_edits(self, engine: Engine, text: str) -> Sequence[Edit]:
        """Puts around the text what the processor's call does."""
        return engine.frame.edits(text) if isinstance(engine, FramedEngine) else ()

    def process_token_ids(
        self,
        input_ids: list[int],
        labels: list[int] | None,
        images: Sequence[MediaReference],
        videos: Sequence[MediaReference],
        audios: Sequence[MediaReference],
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorMixin | None,
    ) -> tuple[list[int], list[int] | None]:
        """Puts around a tokenised row what the processor's call does."""
        ids, labels = super().process_token_ids(input_ids, labels, images, videos, audios, tokenizer, processor)
        engine = self._engine_for(processor)
        if not isinstance(engine, FramedEngine):
            return ids, labels
        return engine.frame.around_ids(ids, labels, tokenizer)


@dataclass(eq=False)
class StandardPlugin(BasePlugin):
    """The same for families that are known to treat each item by itself, so that more plans are remembered."""
