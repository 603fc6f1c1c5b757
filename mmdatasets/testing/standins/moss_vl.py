"""Follows the published interface of the MOSS-VL processor (MOSS-VL-Instruct); written for tests.

Facts, from a copy of the published code: the image processor is Qwen2-VL's with one frame to a patch, and shares
`multi_image_max_pixels` among the images of a call in proportion to their sizes; `<|image|>` in the text becomes one
`<|image_pad|>`; a row without image gets a blank one of 128 by 128 pixels, all zeros; `cross_attention_mask` is true
where a token does not see an image: those that come later, those of other rows, and all for padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, Qwen2VLImageProcessor
from transformers.image_utils import SizeDict

from mmdatasets.testing.processors.registry import normalisation
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.tokenizer import build_tokenizer

_BLANK_PIXELS = 128 * 128
_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> "
    "<|image|> <|video|> <|image_pad|> <|video_pad|> <|time_start|> <|time_end|>"
)

_CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{{ '<|image|>' if part.type == 'image' else part.text }}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


class MossVLImageProcessorFast(Qwen2VLImageProcessor):  # type: ignore[misc]
    """Qwen2-VL's, with a pixel budget that the images of a call share."""

    multi_image_max_pixels: int | None = None

    def __init__(self, multi_image_max_pixels: int | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.multi_image_max_pixels = multi_image_max_pixels

    def _preprocess(self, images: Sequence[torch.Tensor], size: SizeDict, **kwargs: object) -> BatchFeature:
        pixels = [image.shape[-2] * image.shape[-1] for image in images]
        shared = self.multi_image_max_pixels or size.longest_edge
        outputs = []
        for image, own in zip(images, pixels, strict=True):
            share = int(shared * (own / sum(pixels)))
            longest = min(max(share, size.shortest_edge), size.longest_edge)
            one = SizeDict(shortest_edge=size.shortest_edge, longest_edge=longest)
            outputs.append(super()._preprocess([image], size=one, **kwargs))
        return BatchFeature({name: torch.cat([one[name] for one in outputs]) for name in outputs[0]})


class MossVLProcessor(StandInProcessor):
    """MOSS-VL."""

    image_processor_type = MossVLImageProcessorFast

    def __init__(
        self,
        image_processor: MossVLImageProcessorFast,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_placeholder = "<|image|>"
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[PIL.Image.Image | torch.Tensor] | None = None,
        videos: None = None,
        padding: bool = False,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes a batch of texts with a placeholder for each image, and of all images."""
        if not text:
            raise ValueError("the text must not be empty")
        texts = [text] if isinstance(text, str) else list(text)
        counts = [one.count(self.image_placeholder) for one in texts]
        given = [] if images is None else list(images)
        if sum(counts) != len(given):
            raise ValueError(f"{sum(counts)} image tokens in the text and {len(given)} images")
        media = self.image_processor(given, return_tensors="pt") if given else {}
        grids = iter(media["image_grid_thw"]) if given else iter(())
        supply = iter(
            media["pixel_values"].split([int(grid.prod()) for grid in media["image_grid_thw"]]) if given else ()
        )
        pixels, shapes = [], []
        for count in counts:
            for _ in range(count):
                pixels.append(next(supply))
                shapes.append(next(grids))
            if not count:
                pixels.append(self._blank[0])
                shapes.append(self._blank[1])
        tokens = self.tokenizer(
            [one.replace(self.image_placeholder, self.image_token) for one in texts],
            padding=padding,
            return_tensors=return_tensors,
        )
        grid, media_counts = torch.stack(shapes), [count or 1 for count in counts]
        mask = self._create_cross_attention_mask(tokens["input_ids"], grid, media_counts, tokens["attention_mask"])
        data = {**tokens, "pixel_values": torch.cat(pixels), "grid_thw": grid, "cross_attention_mask": mask}
        return BatchFeature({**data, "media_nums_per_sample": media_counts})

    @property
    def _blank(self) -> tuple[torch.Tensor, torch.Tensor]:
        processor = self.image_processor
        block = processor.patch_size * processor.merge_size
        side = math.ceil(math.sqrt(_BLANK_PIXELS) / block) * block // processor.patch_size
        values = torch.zeros(side * side, 3 * processor.temporal_patch_size * processor.patch_size**2)
        return values, torch.tensor([1, side, side])

    def _create_cross_attention_mask(
        self,
        input_ids: Sequence[Sequence[int]],
        grid_thw: torch.Tensor,
        media_nums_per_sample: Sequence[int],
        attention_mask: Sequence[Sequence[int]] | None = None,
    ) -> torch.Tensor:
        """`(batch, 1, length, most_media)`, true where a token does not see an image."""
        length = max(len(ids) for ids in input_ids)
        mask = np.ones((len(input_ids), 1, length, max(media_nums_per_sample)), dtype=bool)
        for row, ids in enumerate(input_ids):
            seen = 0
            for place, token in enumerate(ids):
                seen += int(token) == self.image_token_id
                if attention_mask is None or attention_mask[row][place] == 1:
                    mask[row, 0, place, : min(seen, media_nums_per_sample[row])] = False
        return torch.from_numpy(mask)


def build_moss_vl() -> MossVLProcessor:
    """MOSS-VL; the pixel budgets are smaller than the checkpoints', so that small images meet them."""
    tokenizer = build_tokenizer(
        _TOKENS.split(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    image_processor = MossVLImageProcessorFast(
        patch_size=16,
        temporal_patch_size=1,
        merge_size=2,
        size={"shortest_edge": 64 * 64, "longest_edge": 512 * 512},
        multi_image_max_pixels=640 * 640,
        **normalisation("half"),
    )
    return MossVLProcessor(image_processor, tokenizer, chat_template=_CHAT_TEMPLATE)
