"""Follows the published interface of the MiniCPM-V 2.6 and MiniCPM-o 2.6 processors; written for tests.

Facts, from copies of the published code: the image processor slices an image in up to `max_slice_nums` parts beside a
downscaled overview, each resized to whole patches; the text gets one placeholder text for each `(<image>./</image>)`,
numbered by the image's place in its row; rows are padded on the left with id 0; the bounds of features are read off
the ids. Images come as one list for each row. MiniCPM-o numbers images by default of its call, MiniCPM-V as the image
processor is set. A chat with a video has its frames as images, with arguments of the call; see `minicpm_audio` for
audio.

Assumed: MiniCPM-V 2.6 masks what has id 0, which is padding and also the tokenizer's first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast, WhisperFeatureExtractor

from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.standins.minicpm_audio import chunk_lengths, count_features, extract_features
from mmdatasets.testing.standins.minicpmv_image import TOKENS, MiniCPMVImageProcessor
from mmdatasets.testing.tokenizer import build_tokenizer

_TAG = "(<image>./</image>)"
_AUDIO_TAG = "(<audio>./</audio>)"
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
        audio_texts: Sequence[Sequence[str]] = (),
    ) -> tuple[dict[str, torch.Tensor], list[int]]:
        texts = [text] if isinstance(text, str) else list(text)
        rows = images if images is not None else [[] for _ in texts]
        media = self.image_processor(rows, max_slice_nums=max_slice_nums, return_tensors="pt")
        encoded = []
        audio_texts = audio_texts or [[] for _ in texts]
        for one, sizes, sounds in zip(texts, media["image_sizes"], audio_texts, strict=True):
            chunks = one.split(_TAG)
            if len(chunks) - 1 != len(sizes):
                raise AssertionError(f"{len(chunks) - 1} tags for {len(sizes)} images")
            place = self.image_processor.get_slice_image_placeholder
            places = [place(size, index, max_slice_nums, use_image_id) for index, size in enumerate(sizes)]
            final = chunks[0] + "".join(place + rest for place, rest in zip(places, chunks[1:], strict=True))
            if final.count(_AUDIO_TAG) != len(sounds):
                raise AssertionError(f"{final.count(_AUDIO_TAG)} tags for {len(sounds)} audio")
            for sound in sounds:
                final = final.replace(_AUDIO_TAG, sound, 1)
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
    """MiniCPM-o 2.6."""

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
        audios: Sequence[Sequence[np.ndarray]] | None = None,
        audio_parts: Sequence[Sequence[int]] | None = None,
        max_length: int | None = None,
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        use_image_id: bool = True,
        chunk_input: bool = False,
        return_tensors: str = "pt",
        sampling_rate: int = 16000,
        **kwargs: object,
    ) -> BatchFeature:
        """As for MiniCPM-V, with a tag for each audio; also returns the places of audio, and of speech of none."""
        made = self.audio_feature_extract(audios or [], audio_parts, chunk_input, sampling_rate)
        features, lengths, places = made
        data, padding = self._inputs(text, images, max_slice_nums, use_image_id, places)
        ids, tokenizer = data["input_ids"], self.tokenizer
        mask = torch.ones_like(ids, dtype=torch.bool)
        for row, pad in zip(mask, padding, strict=True):
            row[:pad] = False
        none = [0] * len(ids)
        audio = _spans(list(ids), none, (tokenizer.audio_start_id,), (tokenizer.audio_end_id,))
        speech = _spans(list(ids), none, (tokenizer.spk_start_id,), (tokenizer.spk_end_id,))
        heard = {
            "audio_bounds": audio,
            "spk_bounds": speech,
            "audio_features": features,
            "audio_feature_lens": lengths,
        }
        return BatchFeature({**data, "attention_mask": mask, **heard})

    def get_audio_placeholder(self, audio_lens: int, chunk_input: bool, chunk_length: float) -> str:
        """The text that audio of so many samples becomes, in one span or one for each chunk."""
        tokenizer = self.tokenizer
        frames = math.ceil(audio_lens / self.feature_extractor.hop_length)
        counts = chunk_lengths(frames, chunk_length) if chunk_input else [count_features(frames)]
        return "".join(tokenizer.audio_start + "<unk>" * count + tokenizer.audio_end for count in counts)

    def audio_feature_extract(
        self,
        audios: Sequence[Sequence[np.ndarray]],
        audio_parts: Sequence[Sequence[int]] | None = None,
        chunk_input: bool = False,
        sampling_rate: int = 16000,
        chunk_length: float = 1,
    ) -> tuple[torch.Tensor | list[torch.Tensor], list[torch.Tensor | list[int]], list[list[str]]]:
        """Features of all audio, the frames of each row's windows, and what each audio becomes in the text."""
        features, lengths = extract_features(self.feature_extractor, audios, audio_parts, sampling_rate)
        places = [[self.get_audio_placeholder(len(one), chunk_input, chunk_length) for one in row] for row in audios]
        return features, lengths, places


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
        named_tokens={**TOKENS, **audio},
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
