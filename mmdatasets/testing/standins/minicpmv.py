"""Follows the published interface of the MiniCPM-V 2.6 and MiniCPM-o 2.6 processors; written for tests.

Facts, from copies of the published code: the image processor slices an image in up to `max_slice_nums` parts beside a
downscaled overview, each resized to whole patches; the text gets one placeholder text for each `(<image>./</image>)`,
numbered by the image's place in its row; rows are padded on the left with id 0; the bounds of features are read off
the ids. Images come as one list for each row. MiniCPM-o numbers images by default of its call, MiniCPM-V as the image
processor is set.

Assumed: MiniCPM-V 2.6 masks what has id 0, which is padding and also the tokenizer's first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast, WhisperFeatureExtractor

from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.tokenizer import build_tokenizer

_TAG = "(<image>./</image>)"
_Size = tuple[int, int]

_TOKENS = {
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
}
_AUDIO_TOKENS = {
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "spk_start": "<|spk_bos|>",
    "spk_end": "<|spk_eos|>",
}
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class MiniCPMVImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Slices images. Attributes as published; those not needed here are left out."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        max_slice_nums: int = 9,
        scale_resolution: int = 448,
        patch_size: int = 14,
        use_image_id: bool = True,
        image_feature_size: int = 64,
        version: float = 2.6,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.max_slice_nums = max_slice_nums
        self.scale_resolution = scale_resolution
        self.patch_size = patch_size
        self.use_image_id = use_image_id
        self.image_feature_size = image_feature_size
        self.version = version

    def get_sliced_grid(self, image_size: _Size, max_slice_nums: int) -> _Size | None:
        """Columns and rows of slices whose shape is nearest to the image's; `None` for an image small enough."""
        width, height = image_size
        wanted = min(math.ceil(width * height / self.scale_resolution**2), max_slice_nums)
        if wanted <= 1:
            return None
        counts = [count for count in (wanted - 1, wanted, wanted + 1) if 1 < count <= max_slice_nums]
        grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
        aspect = math.log(width / height)
        return min(grids, key=lambda grid: abs(aspect - math.log(grid[0] / grid[1])))

    def get_image_id_placeholder(self, idx: int = 0) -> str:
        """The text that numbers an image."""
        return f"{_TOKENS['im_id_start']}{idx}{_TOKENS['im_id_end']}"

    def get_slice_image_placeholder(
        self,
        image_size: _Size,
        image_idx: int = 0,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
    ) -> str:
        """The text that an image of a size `(width, height)` becomes."""
        features = "<unk>" * self.image_feature_size
        numbered = self.use_image_id if use_image_id is None else use_image_id
        text = self.get_image_id_placeholder(image_idx) if numbered else ""
        text += _TOKENS["im_start"] + features + _TOKENS["im_end"]
        width, height = (int(side) for side in image_size)
        grid = self.get_sliced_grid((width, height), max_slice_nums or self.max_slice_nums)
        if grid is not None:
            row = (_TOKENS["slice_start"] + features + _TOKENS["slice_end"]) * grid[0]
            text += "\n".join([row] * grid[1])
        return text

    def _whole(self, length: float, unit: int) -> int:
        return max(round(length / unit) * unit, unit)

    def _fit(self, width: float, height: float, upscale: bool) -> _Size:
        """Near `scale_resolution` squared pixels, in whole patches; smaller ones only where `upscale` says so."""
        if upscale or width * height > self.scale_resolution**2:
            ratio = width / height
            height = int(self.scale_resolution / math.sqrt(ratio))
            width = int(height * ratio)
        return self._whole(width, self.patch_size), self._whole(height, self.patch_size)

    def _slices(self, image: PIL.Image.Image, max_slice_nums: int) -> list[PIL.Image.Image]:
        grid = self.get_sliced_grid(image.size, max_slice_nums)
        bicubic = PIL.Image.Resampling.BICUBIC
        overview = image.resize(self._fit(*image.size, upscale=grid is None), bicubic)
        if grid is None:
            return [overview]
        cell_width, cell_height = (self._whole(side, n) / n for side, n in zip(image.size, grid, strict=True))
        width, height = self._fit(cell_width, cell_height, upscale=True)
        resized = image.resize((width * grid[0], height * grid[1]), bicubic)
        corners = [(column * width, row * height) for row in range(grid[1]) for column in range(grid[0])]
        return [overview, *(resized.crop((x, y, x + width, y + height)) for x, y in corners)]

    def _patches(self, image: PIL.Image.Image) -> torch.Tensor:
        """`(3, patch_size, patch_size * num_patches)`: the image's patches side by side."""
        pixels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
        size = self.patch_size
        rows, columns = image.height // size, image.width // size
        cut = pixels.reshape(rows, size, columns, size, 3).transpose(4, 1, 0, 2, 3)
        return torch.from_numpy(np.ascontiguousarray(cut.reshape(3, size, -1)))

    def preprocess(
        self,
        images: Sequence[Sequence[PIL.Image.Image]],
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes `pixel_values`, `image_sizes` and `tgt_sizes`, each a list with an entry for each row."""
        data: dict[str, list[object]] = {"pixel_values": [], "image_sizes": [], "tgt_sizes": []}
        for row in images:
            slices = [
                part
                for image in row
                for part in self._slices(image.convert("RGB"), max_slice_nums or self.max_slice_nums)
            ]
            sizes = [(part.height // self.patch_size, part.width // self.patch_size) for part in slices]
            data["pixel_values"].append([self._patches(part) for part in slices])
            data["image_sizes"].append([torch.tensor(image.size) for image in row])
            data["tgt_sizes"].append(torch.tensor(sizes) if sizes else [])
        return BatchFeature(data)


class MiniCPMVProcessor(StandInProcessor):
    """MiniCPM-V 2.6."""

    image_processor_type = MiniCPMVImageProcessor

    def __init__(
        self, image_processor: MiniCPMVImageProcessor, tokenizer: PreTrainedTokenizerFast, chat_template: None = None
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.version = image_processor.version

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Sequence[PIL.Image.Image]] | None = None,
        max_length: int | None = None,
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        return_tensors: str = "pt",
        **kwargs: object,
    ) -> BatchFeature:
        """Makes a batch of texts with a tag for each image, and of each row's images."""
        data, _ = self._inputs(text, images, max_slice_nums, use_image_id)
        data["attention_mask"] = data["input_ids"].ne(0)
        return BatchFeature(data)

    def _inputs(
        self,
        text: str | Sequence[str],
        images: Sequence[Sequence[PIL.Image.Image]] | None,
        max_slice_nums: int | None,
        use_image_id: bool | None,
    ) -> tuple[dict[str, torch.Tensor], list[int]]:
        texts = [text] if isinstance(text, str) else list(text)
        rows = images if images is not None else [[] for _ in texts]
        media = self.image_processor(rows, max_slice_nums=max_slice_nums, return_tensors="pt")
        encoded = []
        for one, sizes in zip(texts, media["image_sizes"], strict=True):
            chunks = one.split(_TAG)
            if len(chunks) - 1 != len(sizes):
                raise AssertionError(f"{len(chunks) - 1} tags for {len(sizes)} images")
            place = self.image_processor.get_slice_image_placeholder
            places = [place(size, index, max_slice_nums, use_image_id) for index, size in enumerate(sizes)]
            final = chunks[0] + "".join(place + rest for place, rest in zip(places, chunks[1:], strict=True))
            encoded.append(torch.tensor(self.tokenizer.encode(final), dtype=torch.int32))
        length = max(len(ids) for ids in encoded)
        padding = [length - len(ids) for ids in encoded]
        tokenizer = self.tokenizer
        bounds = _spans(
            encoded,
            padding,
            (tokenizer.im_start_id, tokenizer.slice_start_id),
            (tokenizer.im_end_id, tokenizer.slice_end_id),
        )
        padded = torch.stack([torch.cat([ids.new_zeros(pad), ids]) for ids, pad in zip(encoded, padding, strict=True)])
        return {"input_ids": padded, **media, "image_bound": bounds}, padding


class MiniCPMOProcessor(MiniCPMVProcessor):
    """MiniCPM-o 2.6, without audio."""

    def __init__(
        self,
        image_processor: MiniCPMVImageProcessor,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        super(StandInProcessor, self).__init__(image_processor, feature_extractor, tokenizer)
        self.version = image_processor.version

    @classmethod
    def _assemble(
        cls,
        folder: Path,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None,
    ) -> Self:
        return cls(image_processor, WhisperFeatureExtractor.from_pretrained(folder), tokenizer)

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        images: Sequence[Sequence[PIL.Image.Image]] | None = None,
        audios: None = None,
        audio_parts: None = None,
        max_length: int | None = None,
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        use_image_id: bool = True,
        chunk_input: bool = False,
        return_tensors: str = "pt",
        sampling_rate: int = 16000,
        **kwargs: object,
    ) -> BatchFeature:
        """As for MiniCPM-V; also returns the places of audio and speech, here of none."""
        data, padding = self._inputs(text, images, max_slice_nums, use_image_id)
        ids, tokenizer = data["input_ids"], self.tokenizer
        mask = torch.ones_like(ids, dtype=torch.bool)
        for row, pad in zip(mask, padding, strict=True):
            row[:pad] = False
        none = [0] * len(ids)
        audio = _spans(list(ids), none, (tokenizer.audio_start_id,), (tokenizer.audio_end_id,))
        speech = _spans(list(ids), none, (tokenizer.spk_start_id,), (tokenizer.spk_end_id,))
        none_of = {"audio_bounds": audio, "spk_bounds": speech, "audio_features": [], "audio_feature_lens": []}
        return BatchFeature({**data, "attention_mask": mask, **none_of})


def _spans(
    rows: Sequence[torch.Tensor], shifts: Sequence[int], starts: Sequence[int], ends: Sequence[int]
) -> list[torch.Tensor]:
    """For each row `(n, 2)`: where the tokens between a start and an end token are, moved by the row's shift."""
    found = []
    for ids, shift in zip(rows, shifts, strict=True):
        opened = [index + 1 for index, token in enumerate(ids.tolist()) if token in starts]
        closed = [index for index, token in enumerate(ids.tolist()) if token in ends]
        pairs = list(zip(opened, closed, strict=True))
        found.append(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2) + shift)
    return found


def _tokenizer(**audio: str) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        named_tokens={**_TOKENS, **audio},
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def build_minicpm_v() -> MiniCPMVProcessor:
    """MiniCPM-V 2.6 with its own settings."""
    return MiniCPMVProcessor(MiniCPMVImageProcessor(), _tokenizer())


def build_minicpm_o() -> MiniCPMOProcessor:
    """MiniCPM-o 2.6; its image processor is set not to number images, which the processor's call overrules."""
    image_processor = MiniCPMVImageProcessor(use_image_id=False)
    return MiniCPMOProcessor(image_processor, WhisperFeatureExtractor(), _tokenizer(**_AUDIO_TOKENS))
