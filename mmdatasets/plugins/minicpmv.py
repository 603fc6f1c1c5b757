"""MiniCPM-V 2.6 and MiniCPM-o 2.6, whose processors are code of their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmdatasets.errors import MediaProcessorError, MMDatasetsError
from mmdatasets.planning.dry_run import ProcessorRunner, collapse_runs, get_tokenizer
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.remote_code import as_pil, call_default, refusing
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.collate.inputs import MediaInputs

_PLACEHOLDER = "(<image>./</image>)"
_OLDEST = 2.6
_PER_ROW = ("pixel_values", "image_sizes", "tgt_sizes")
_AUDIO_BOUNDS = {"audio_bounds": ("audio_start_id", "audio_end_id"), "spk_bounds": ("spk_start_id", "spk_end_id")}


@dataclass(eq=False)
class MiniCPMVPlugin(BasePlugin):
    """An image is an overview and up to nine slices, 64 features each, between tokens that the model finds again.

    The model takes everything but the labels in one argument, `data`: so do the batches.
    """

    def image_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> tuple[str, str] | None:
        """The tag that the processor looks for; features stand in the text as the unknown token.

        Raises:
            MMDatasetsError: If the processor is an older one, which marks images in another way.
        """
        version = getattr(getattr(processor, "image_processor", None), "version", _OLDEST)
        if version < _OLDEST:
            raise MMDatasetsError(f"MiniCPM-V {version} is not supported, {_OLDEST} and later are")
        return _PLACEHOLDER, get_tokenizer(processor).unk_token

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """The image processor's own text for an image of this size, without its number."""
        place = runner.processor.image_processor.get_slice_image_placeholder
        with refusing():
            return collapse_runs(place((info.width, info.height), use_image_id=False), runner.image_token)

    def index_expansion(self, engine: Engine, expansion: Expansion, index: int) -> Expansion:
        """Puts the image's number in its row before it, where the processor's own call does."""
        processor = engine.runner.processor
        asked = call_default(processor, "use_image_id")
        if not (processor.image_processor.use_image_id if asked is None else asked):
            return expansion
        return replace(expansion, text=processor.image_processor.get_image_id_placeholder(index) + expansion.text)

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the image processor on each row's images.

        Returns:
            Lists with an entry for each row: `pixel_values` (a list of `(3, patch_size, patch_size * num_patches)`,
            one for each overview and slice), `tgt_sizes` (their patches, `(num_slices, 2)`), `image_sizes`. Then
            what each image becomes in the text.
        """
        rows = [as_pil(row) for row in images]
        expansions = [self.plan_image(engine.runner, ImageInfo(*image.size)) for row in rows for image in row]
        with refusing():
            outputs = engine.runner.processor.image_processor(rows, return_tensors="pt")
        planned = iter(expansions)
        for row, slices in zip(rows, outputs["pixel_values"], strict=True):
            expected = sum(len(next(planned).runs) for _ in row)
            if len(slices) != expected:
                raise MediaProcessorError(
                    f"the model's image processor made {len(slices)} slices of images that it planned {expected} for"
                )
        return {name: outputs[name] for name in _PER_ROW}, expansions

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """Adds `image_bound`: for each row `(num_slices, 2)`, first feature token and one past the last.

        MiniCPM-o also takes the bounds of audio and speech, here of none.
        """
        if not batch_ids:
            return inputs
        tokenizer = engine.tokenizer
        starts = (tokenizer.im_start_id, tokenizer.slice_start_id)
        ends = (tokenizer.im_end_id, tokenizer.slice_end_id)
        rows = [np.asarray(ids) for ids in batch_ids]
        empty: MediaInputs = {name: [[] for _ in rows] for name in _PER_ROW}
        result: MediaInputs = {**empty, **inputs, "image_bound": [_bounds(ids, starts, ends) for ids in rows]}
        if not hasattr(engine.runner.processor, "feature_extractor"):
            return result
        result |= {"audio_features": [], "audio_feature_lens": []}
        for name, (start, end) in _AUDIO_BOUNDS.items():
            pair = (getattr(tokenizer, start),), (getattr(tokenizer, end),)
            result[name] = [_bounds(ids, *pair) for ids in rows]
        return result

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Puts what the model reads into `data`, with `position_ids`, and leaves beside it what the text model takes.

        The published forward is `forward(data, **kwargs)` and gives `kwargs` to its text model, of which it drops
        `input_ids`.
        """
        mask = batch["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1) * mask
        data = {name: value for name, value in batch.items() if name != "labels"} | {"position_ids": positions}
        outside = {name: batch[name] for name in ("input_ids", "attention_mask", "labels") if name in batch}
        return {"data": data, **outside}  # type: ignore[dict-item]


def _bounds(ids: np.ndarray, starts: Sequence[int], ends: Sequence[int]) -> torch.Tensor:
    """`(num_spans, 2)`: what stands between the tokens that start and end a span, as a half-open range."""
    first, last = (torch.from_numpy(np.flatnonzero(np.isin(ids, tokens))) for tokens in (starts, ends))
    if len(first) != len(last):
        raise MMDatasetsError(
            f"a row has {len(first)} tokens that start an image and {len(last)} that end one: do not cut input_ids"
        )
    return torch.stack([first + 1, last], dim=1)
