"""Asks the model's own processor what it makes of a media item, without doing any pixel work.

Beside `mmdatasets.chat.traced`, which renders templates, this is the only module that touches private API of
transformers: `_merge_kwargs`, `_process_images` and its siblings, which return the processed tensors *and* the
replacement text of each item.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from mmdatasets.errors import MediaProcessorError
from mmdatasets.types import MODALITIES, Expansion, ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

ProcessorKwargs: TypeAlias = dict[str, object]

_REFERENCE_SIDE = 448
_KWARGS_GROUP = {"image": "images_kwargs", "video": "videos_kwargs", "audio": "audio_kwargs"}


def get_tokenizer(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor; a bare tokenizer is its own."""
    return getattr(processor, "tokenizer", processor)


def collapse_runs(text: str, media_token: str) -> Expansion:
    """Shortens every run of the media token in `text` to one token and keeps the lengths.

    Args:
        text: Replacement text as the processor gives it, for example `"<|image_pad|>" * 1000`.
        media_token: The token that stands for one feature of the model.

    Returns:
        The shortened text with the length of each run, in order.
    """
    runs: list[int] = []

    def shorten(match: re.Match[str]) -> str:
        runs.append(len(match.group()) // len(media_token))
        return media_token

    return Expansion(re.sub(f"(?:{re.escape(media_token)})+", shorten, text), tuple(runs))


class ProcessorRunner:
    """Runs one processor under fixed settings, dry at the map stage and for real at the collate stage.

    Args:
        processor: The model's processor, or a bare tokenizer for a text-only model.
        overrides: Per modality, keyword arguments that replace the processor's own, planned and collated alike.
        image_tokens: Placeholder of an image and token of one image feature, where the processor cannot be asked.
    """

    def __init__(
        self,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        overrides: Mapping[Modality, ProcessorKwargs] | None = None,
        image_tokens: tuple[str, str] | None = None,
    ) -> None:
        self.processor = processor
        self.tokenizer = get_tokenizer(processor)
        self.placeholders: dict[Modality, str] = {}
        """What the chat template writes for one item, for example `<|image_pad|>`."""
        for modality in MODALITIES:
            token = getattr(processor, f"{modality}_token", None)
            if isinstance(token, str):
                self.placeholders[modality] = token
        self._known_image_token: str | None = None
        if image_tokens is not None:
            self.placeholders["image"], self._known_image_token = image_tokens
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
        # Some processors take settings of the whole processor beside those of the modality.
        for modality in MODALITIES:
            wanted = _named_parameters(type(self.processor), modality)  # type: ignore[arg-type]
            group = merged.setdefault(_KWARGS_GROUP[modality], {})
            for name in wanted & (merged.keys() | merged.get("text_kwargs", {}).keys()):
                group[name] = merged[name] if name in merged else merged["text_kwargs"][name]
        return merged

    def kwargs(self, modality: Modality) -> ProcessorKwargs:
        """The processor's merged keyword arguments for a modality, as its own call would use them."""
        return self._kwargs.get(_KWARGS_GROUP[modality], {})

    def setting(self, name: str) -> object | None:
        """A setting of the whole processor, as its own call would use it."""
        return self._kwargs.get(name)

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

    @cached_property
    def image_token(self) -> str:
        """The token that stands for one image feature, which is not always the placeholder (Gemma 3, Llama 4).

        It is the added token that a medium-sized image's expansion has most of.
        """
        if self._known_image_token is not None:
            return self._known_image_token
        text = self._dry_run([ImageInfo(_REFERENCE_SIDE, _REFERENCE_SIDE)])[0]
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        found = Counter(re.findall("|".join(map(re.escape, sorted(added, key=len, reverse=True))), text))
        return found.most_common(1)[0][0] if found else self.placeholders["image"]

    def plan_image(self, width: int, height: int) -> Expansion:
        """What an image of this size, alone in its row, becomes in the text.

        Args:
            width: Pixels.
            height: Pixels.

        Raises:
            MediaProcessorError: If the processor refuses an image of this size.
        """
        return self.plan_images([ImageInfo(width, height)])[0]

    def plan_images(self, row: Sequence[ImageInfo]) -> list[Expansion]:
        """What the images of a row become in the text, found without decoding or resizing anything.

        Raises:
            MediaProcessorError: If the processor refuses images of these sizes.
        """
        expansions = [collapse_runs(text, self.image_token) for text in self._dry_run(row)]
        for info, expansion in zip(row, expansions, strict=True):
            if not expansion.runs:
                raise MediaProcessorError(f"the model's processor makes no token of {info.width}x{info.height} pixels")
        return expansions

    def _dry_run(self, row: Sequence[ImageInfo]) -> list[str]:
        # A meta tensor has a shape and no data. Processors that need data get blank images of the sizes instead.
        if self._meta_works is not False:
            try:
                texts = self._expand_blanks(row, "meta")
            except Exception as error:
                if self._meta_works:
                    raise _refusal(error) from error
            else:
                self._meta_works = True
                return texts
        try:
            texts = self._expand_blanks(row, "cpu")
        except Exception as error:
            raise _refusal(error) from error
        self._meta_works = False
        return texts

    def _expand_blanks(self, row: Sequence[ImageInfo], device: str) -> list[str]:
        return self._run_images(
            [[torch.zeros((3, info.height, info.width), dtype=torch.uint8, device=device) for info in row]]
        )[1]

    def process_images(self, images: Sequence[Sequence[torch.Tensor]]) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on decoded images.

        Args:
            images: The images of each row, `torch.uint8` tensors `(3, height, width)`, RGB.

        Returns:
            The processor's outputs (`pixel_values`, `image_grid_thw`, ...) for all images together, and what each
            image becomes in the text.

        Raises:
            MediaProcessorError: If the processor refuses an image.
        """
        try:
            outputs, replacements = self._run_images(images)
        except Exception as error:  # processors raise what their code raises
            raise _refusal(error) from error
        return outputs, [collapse_runs(text, self.image_token) for text in replacements]

    def _run_images(self, images: Sequence[Sequence[torch.Tensor]]) -> tuple[dict[str, object], list[str]]:
        # As the processor's own call does it with the images of a batch of conversations.
        laid_out = self.processor.prepare_inputs_layout(images=[list(row) for row in images])[0]
        outputs, replacements = self.processor._process_images(laid_out, **self.kwargs("image"))
        # What only the processor itself needs is left out. Some inputs are named after the one that is listed
        # (Video-LLaVA: pixel_values_images).
        names = tuple(self.processor.model_input_names)
        return {name: value for name, value in outputs.items() if name.startswith(names)}, replacements


@cache
def _named_parameters(processor_class: type[ProcessorMixin], modality: Modality) -> frozenset[str]:
    plural = {"image": "images", "video": "videos", "audio": "audio"}[modality]
    method = getattr(processor_class, f"_process_{plural}", None)
    if method is None:
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(method).parameters.values()
    return frozenset(item.name for item in parameters if item.kind in kinds) - {"self", plural}


def _refusal(error: Exception) -> MediaProcessorError:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return MediaProcessorError(f"the model's processor refuses it: {reason}")
