"""Asks the model's own processor what it makes of a media item, without doing any pixel work.

This is the only module that touches private API of transformers: `_merge_kwargs`, `_process_images` and its siblings,
which return the processed tensors *and* the replacement text of each item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from mmdatasets.errors import MediaProcessorError
from mmdatasets.types import MODALITIES, Expansion, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

ProcessorKwargs: TypeAlias = dict[str, object]

_KWARGS_GROUP = {"image": "images_kwargs", "video": "videos_kwargs", "audio": "audio_kwargs"}


def get_tokenizer(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor; a bare tokenizer is its own."""
    return getattr(processor, "tokenizer", processor)


def collapse_runs(text: str, media_tokens: Sequence[str]) -> Expansion:
    """Shortens every run of a media token in `text` to one token and keeps the lengths.

    Args:
        text: Replacement text as the processor gives it, for example `"<|image_pad|>" * 1000`.
        media_tokens: The processor's media tokens. Different tokens form different runs.

    Returns:
        The shortened text with the length of each run, in order.
    """
    runs: list[int] = []

    def shorten(match: re.Match[str]) -> str:
        token = media_tokens[(match.lastindex or 1) - 1]
        runs.append(len(match.group()) // len(token))
        return token

    pattern = "|".join(f"((?:{re.escape(token)})+)" for token in media_tokens)
    return Expansion(re.sub(pattern, shorten, text) if media_tokens else text, tuple(runs))


class ProcessorRunner:
    """Runs one processor under fixed settings, dry at the map stage and for real at the collate stage.

    Args:
        processor: The model's processor, or a bare tokenizer for a text-only model.
        overrides: Per modality, keyword arguments that replace the processor's own, planned and collated alike.
    """

    def __init__(
        self,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        overrides: Mapping[Modality, ProcessorKwargs] | None = None,
    ) -> None:
        self.processor = processor
        self.tokenizer = get_tokenizer(processor)
        self.media_tokens: dict[Modality, str] = {}
        for modality in MODALITIES:
            token = getattr(processor, f"{modality}_token", None)
            if isinstance(token, str):
                self.media_tokens[modality] = token
        self._meta_works: bool | None = None
        self._kwargs = self._merge_kwargs(overrides or {})

    def _merge_kwargs(self, overrides: Mapping[Modality, ProcessorKwargs]) -> dict[str, ProcessorKwargs]:
        if self.tokenizer is self.processor:
            return {}
        grouped = {_KWARGS_GROUP[modality]: dict(kwargs) for modality, kwargs in overrides.items() if kwargs}
        merged: dict[str, ProcessorKwargs] = self.processor._merge_kwargs(
            self.processor.valid_processor_kwargs,
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            common_kwargs={"return_tensors": "pt"},
            **grouped,
        )
        return merged

    def kwargs(self, modality: Modality) -> ProcessorKwargs:
        """The processor's merged keyword arguments for a modality, as its own call would use them."""
        return self._kwargs.get(_KWARGS_GROUP[modality], {})

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the processor's call lets the tokenizer add bos and eos to a text that does not start with bos."""
        return bool(self._kwargs.get("text_kwargs", {}).get("add_special_tokens", True))

    @property
    def returns_token_types(self) -> bool:
        """Whether the processor returns `mm_token_type_ids` (0 text, 1 image, 2 video, 3 audio) with the text."""
        text_kwargs = self._kwargs.get("text_kwargs", {})  # until 5.28 the flag may stand among the text settings
        flag = self._kwargs.get("return_mm_token_type_ids", text_kwargs.get("return_mm_token_type_ids"))
        return bool(flag)

    def plan_image(self, width: int, height: int) -> Expansion:
        """What an image of this size becomes in the text, found without decoding or resizing anything.

        Args:
            width: Pixels.
            height: Pixels.

        Raises:
            MediaProcessorError: If the processor refuses an image of this size.
        """
        # A meta tensor has a shape and no data. Processors that need data get a blank image of the size instead.
        if self._meta_works is not False:
            try:
                expansion = self._expand_image(width, height, "meta")
            except Exception as error:
                if self._meta_works:
                    raise _refusal(error) from error
            else:
                self._meta_works = True
                return expansion
        try:
            expansion = self._expand_image(width, height, "cpu")
        except Exception as error:
            raise _refusal(error) from error
        self._meta_works = False
        return expansion

    def _expand_image(self, width: int, height: int, device: str) -> Expansion:
        blank = torch.zeros((3, height, width), dtype=torch.uint8, device=device)
        return self._run_images([blank])[1][0]

    def process_images(self, images: Sequence[torch.Tensor]) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on decoded images.

        Args:
            images: `torch.uint8` tensors `(3, height, width)`, RGB.

        Returns:
            The processor's outputs (`pixel_values`, `image_grid_thw`, ...) for all images together, and what each
            image becomes in the text.

        Raises:
            MediaProcessorError: If the processor refuses an image.
        """
        try:
            return self._run_images(images)
        except (ValueError, RuntimeError) as error:
            raise _refusal(error) from error

    def _run_images(self, images: Sequence[torch.Tensor]) -> tuple[dict[str, object], list[Expansion]]:
        outputs, replacements = self.processor._process_images(list(images), **self.kwargs("image"))
        tokens = tuple(self.media_tokens.values())
        expansions = [collapse_runs(text, tokens) for text in replacements]
        unused = self.processor.unused_input_names
        return {name: value for name, value in outputs.items() if name not in unused}, expansions


def _refusal(error: Exception) -> MediaProcessorError:
    return MediaProcessorError(f"the model's processor refuses it: {error}")
