"""Llama 3.2 Vision (Mllama): images reach the text through cross attention, one token each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from mmdatasets.chat.control_tokens import blank_marked
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.tokenise import Edit
from mmdatasets.types import Expansion

if TYPE_CHECKING:
    from mmdatasets.collate.inputs import MediaInputs


@dataclass(eq=False)
class MllamaPlugin(BasePlugin):
    """Tensors are `(batch, max_images, max_tiles, ...)`: rows with fewer images are padded, also with none."""

    inserts_bos: ClassVar[bool] = True

    def text_edits(self, engine: Engine, text: str) -> Sequence[Edit]:
        """Puts bos before the text, behind leading images, where the template wrote none."""
        bos, placeholder = engine.tokenizer.bos_token, engine.runner.placeholders["image"]
        text = blank_marked(text)
        if bos is None or bos in text:
            return ()
        start = 0
        while text.startswith(placeholder, start):
            start += len(placeholder)
        return (Edit(start, start, bos),)

    def bos_index(self, engine: Engine, input_ids: Sequence[int]) -> int:
        """Behind leading image tokens."""
        token = engine.media_token_ids[0]
        return next((index for index, item in enumerate(input_ids) if item != token), len(input_ids))

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on the rows that have images, and gives the others empty places.

        The processor fails on a row without image. Such a row gets what the processor puts into the unused places of
        a row: zeros, and an aspect ratio mask that shows the first tile, so that attention has something to normalise.
        """
        filled = [index for index, row in enumerate(images) if row]
        outputs, expansions = super().process_images(engine, [images[index] for index in filled])
        spread = {name: _spread(value, filled, len(images)) for name, value in outputs.items()}  # type: ignore[arg-type]
        spread["aspect_ratio_mask"][..., 0] = 1
        return dict(spread), expansions

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """Makes `cross_attention_mask` `(batch, length, max_images, max_tiles)` of the image tokens' places."""
        inputs = super().finish_inputs(engine, inputs, batch_ids)
        tiles = inputs.get("aspect_ratio_mask")
        if tiles is None or not batch_ids:
            return inputs
        token = engine.runner.processor.image_token_id
        mask = convert_sparse_cross_attention_mask_to_dense(
            [get_cross_attention_token_mask(list(ids), token) for ids in batch_ids],
            num_tiles=torch.as_tensor(tiles).sum(dim=-1).tolist(),
            max_num_tiles=engine.runner.processor.image_processor.max_image_tiles,
            length=max(len(ids) for ids in batch_ids),
        )
        return inputs | {"cross_attention_mask": torch.from_numpy(np.ascontiguousarray(mask))}


def _spread(rows: torch.Tensor, places: Sequence[int], total: int) -> torch.Tensor:
    """Puts `rows` at `places` of a tensor with `total` rows, zeros elsewhere."""
    if len(places) == total:
        return rows
    spread = rows.new_zeros((total, *rows.shape[1:]))
    spread[list(places)] = rows
    return spread
