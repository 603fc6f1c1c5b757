"""Follows the published interface of the MOSS-VL processor (MOSS-VL-Instruct); written for tests.

Facts, from a copy of the published code: the image processor is Qwen2-VL's with one frame to a patch, and shares
`multi_image_max_pixels` among the images of a call in proportion to their sizes; `<|image|>` in the text becomes one
`<|image_pad|>`; a row without image gets a blank one of 128 by 128 pixels, all zeros; `cross_attention_mask` is true
where a token does not see an image: those that come later, those of other rows, and all for padding. `<|video|>`
becomes the time and `<|image_pad|>` of each frame, which counts as an image there, between vision tokens; images and
videos of a row are in the order of its text. See `moss_vl_video` for the video processor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast, Qwen2VLImageProcessor
from transformers.image_utils import SizeDict
from transformers.video_utils import VideoMetadata

from mmdatasets.testing.processors.registry import normalisation
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.standins.moss_vl_video import MossVLVideoProcessor
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
    "{{ '<|' + part.type + '|>' if part.type in ('image', 'video') else part.text }}{%- endfor -%}{%- endif -%}"
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
        video_processor: MossVLVideoProcessor | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(
            image_processor, tokenizer, video_processor or MossVLVideoProcessor(), chat_template=chat_template
        )
        self.image_placeholder = "<|image|>"
        self.image_token = "<|image_pad|>"
        self.video_placeholder = "<|video|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    @classmethod
    def _assemble(
        cls,
        folder: Path,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None,
    ) -> Self:
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["video_processor"]
        return cls(image_processor, tokenizer, MossVLVideoProcessor.from_dict(config), chat_template)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[PIL.Image.Image | torch.Tensor] | None = None,
        videos: Sequence[str] | None = None,
        padding: bool = False,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes a batch of texts with a placeholder for each image and video, and of all of these."""
        if not text:
            raise ValueError("the text must not be empty")
        texts = [text] if isinstance(text, str) else list(text)
        found = [
            re.findall(f"{re.escape(self.image_placeholder)}|{re.escape(self.video_placeholder)}", one)
            for one in texts
        ]
        supply = {}
        for placeholder, made, given in (
            (self.image_placeholder, self._see_images(images), images),
            (self.video_placeholder, self._see_videos(videos), videos),
        ):
            written = sum(row.count(placeholder) for row in found)
            if written != len(given or ()):
                raise ValueError(f"{written} {placeholder} in the text and {len(given or ())} items")
            supply[placeholder] = iter(made)
        media = [[next(supply[placeholder]) for placeholder in row] or [(*self._blank, "")] for row in found]
        expanded = []
        for one, row, items in zip(texts, found, media, strict=True):
            for placeholder, (_, _, place) in zip(row, items, strict=bool(row)):
                one = one.replace(placeholder, place, 1)  # noqa: PLW2901
            expanded.append(one)
        tokens = self.tokenizer(expanded, padding=padding, return_tensors=return_tensors)
        grid, counts = torch.stack([grid for row in media for _, grid, _ in row]), [len(row) for row in media]
        mask = self._create_cross_attention_mask(tokens["input_ids"], grid, counts, tokens["attention_mask"])
        pixels = torch.cat([values for row in media for values, _, _ in row])
        data = {**tokens, "pixel_values": pixels, "grid_thw": grid, "cross_attention_mask": mask}
        return BatchFeature({**data, "media_nums_per_sample": counts})

    def _see_images(
        self, images: Sequence[PIL.Image.Image | torch.Tensor] | None
    ) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
        if not images:
            return []
        made = self.image_processor(list(images), return_tensors="pt")
        return [(*item, self.image_token) for item in _apart(made["pixel_values"], made["image_grid_thw"])]

    def _see_videos(self, videos: Sequence[str] | None) -> list[tuple[torch.Tensor, torch.Tensor, str]]:
        if not videos:
            return []
        made = self.video_processor(videos=list(videos), return_metadata=True)
        items = _apart(made["pixel_values_videos"], made["video_grid_thw"])
        return [(*item, self._write_video(known)) for item, known in zip(items, made["video_metadata"], strict=True)]

    def _write_video(self, metadata: VideoMetadata) -> str:
        times = [index / (metadata.fps or 24) for index in metadata.frames_indices]
        frames = (f"<|time_start|>{time:.1f} seconds<|time_end|>{self.image_token}" for time in times)
        return f"<|vision_start|>{''.join(frames)}<|vision_end|>"

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
        """`(batch, 1, length, most_frames)`, true where a token does not see an image or frame."""
        length = max(len(ids) for ids in input_ids)
        per_row = torch.split(torch.as_tensor(grid_thw)[:, 0], list(media_nums_per_sample))
        frames = [int(counts.sum()) for counts in per_row]
        mask = np.ones((len(input_ids), 1, length, max(frames)), dtype=bool)
        for row, ids in enumerate(input_ids):
            seen = 0
            for place, token in enumerate(ids):
                seen += int(token) == self.image_token_id
                if attention_mask is None or attention_mask[row][place] == 1:
                    mask[row, 0, place, : min(seen, frames[row])] = False
        return torch.from_numpy(mask)


def _apart(values: torch.Tensor, grids: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The patches and the grid of each item."""
    return list(zip(torch.split(values, [int(grid.prod()) for grid in grids]), grids, strict=True))


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
    video_processor = MossVLVideoProcessor(
        size={"shortest_edge": 64 * 64, "longest_edge": 256 * 256}, video_max_pixels=8 * 128 * 128, max_frames=12
    )
    return MossVLProcessor(image_processor, tokenizer, video_processor, chat_template=_CHAT_TEMPLATE)
