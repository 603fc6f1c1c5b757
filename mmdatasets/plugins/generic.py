"""Any processor of transformers that can say what a media item becomes in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.self_check import check_against_processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.options import MediaOptions
    from mmdatasets.transforms.engine import Engine


@dataclass(eq=False)
class GenericPlugin(BasePlugin):
    """Works through the processor's own `replace_image_token` and its siblings; knows nothing of the family.

    So it compares itself with the processor's own call, on small probes, before it computes anything in a process.
    """

    items_are_independent: ClassVar[bool] = False

    def make_engine(self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions) -> Engine:
        """What the plugin computes with.

        Raises:
            ProcessorMismatchError: If the processor does more in its call than its hooks tell.
        """
        engine = super().make_engine(processor, options)
        check_against_processor(self, engine)
        return engine


@dataclass(eq=False)
class StandardPlugin(BasePlugin):
    """The same for families that are known to treat each item by itself, so that more plans are remembered."""
