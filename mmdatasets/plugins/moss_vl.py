"""MOSS-VL, whose processor is code of its checkpoints. Images reach the text through cross attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.remote_code import refusing
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.collate.inputs import MediaInputs

_MEDIA_COUNTS = "media_nums_per_sample"


@dataclass(eq=False)
class MossVLPlugin(BasePlugin):
    """A row without image gets a blank one, which nothing attends to; a batch's images share a pixel budget."""

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """The placeholder that the processor looks for, and the image token that it puts there."""
        return {"image": (processor.image_placeholder, processor.image_token)}

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """One token; the image processor is asked whether it takes an image of this size."""
        blank = torch.zeros((3, info.height, info.width), dtype=torch.uint8, device="meta")
        with refusing():
            runner.processor.image_processor(images=[blank], return_tensors="pt")
        return Expansion(runner.image_token, (1,))

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on the batch.

        Returns:
            `pixel_values` `(num_patches, patch_dim)`, `grid_thw` `(num_media, 3)` and `media_nums_per_sample`, a
            blank image for rows without included, and what each image becomes in the text.
        """
        token = engine.runner.image_token
        return _process(engine.runner, images), [Expansion(token, (1,)) for _ in chain(*images)]

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """Adds `cross_attention_mask` `(batch, 1, length, max_media)`, true where a token does not see an image."""
        if not batch_ids:
            return inputs
        if _MEDIA_COUNTS not in inputs:
            inputs = {**inputs, **_process(engine.runner, [[] for _ in batch_ids])}  # type: ignore[dict-item]
        mask = engine.runner.processor._create_cross_attention_mask(
            [list(ids) for ids in batch_ids], inputs["grid_thw"], inputs[_MEDIA_COUNTS]
        )
        return {**inputs, "cross_attention_mask": mask}

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Hides all images from padding, and gives `media_nums_per_sample` as the list that the model takes."""
        padding = batch["attention_mask"][:, None, :, None] == 0
        counts: list[int] = batch[_MEDIA_COUNTS].tolist()
        masked = batch["cross_attention_mask"] | padding
        return {**batch, "cross_attention_mask": masked, _MEDIA_COUNTS: counts}  # type: ignore[dict-item]


def _process(runner: ProcessorRunner, images: Sequence[Sequence[torch.Tensor]]) -> dict[str, object]:
    processor = runner.processor
    texts = [processor.image_placeholder * len(row) or "-" for row in images]  # it refuses empty ones
    with refusing():
        outputs = processor(text=texts, images=list(chain(*images)) or None, padding=True, return_tensors="pt")
    return {name: outputs[name] for name in ("pixel_values", "grid_thw", _MEDIA_COUNTS)}
