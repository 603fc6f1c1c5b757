"""What a plugin computes with: everything that is not configuration, built once in each process, never pickled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets.chat.control_tokens import ControlTokenGuard, Piece
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.chat.tokenise import TextEncoder
from mmdatasets.errors import MediaError, MediaProcessorError, TemplateError
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.source import describe_source
from mmdatasets.options import MediaOptions
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.sizes import fit_pixels
from mmdatasets.types import Expansion, ImageInfo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import ImageReference

_PLAN_CACHE_SIZE = 65_536
_BLANK_SIDES = (32, 64, 128, 256, 512)
_MARK = "\U0010fff3"


class Engine:
    """A processor at work under a plugin's settings.

    Args:
        plugin: Gives the family's rules and the settings.
        processor: The model's processor.
        options: How media is read and sized.
    """

    def __init__(
        self, plugin: BasePlugin, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
    ) -> None:
        self.options = options
        self._plugin = plugin
        image_tokens = plugin.image_tokens(processor) if hasattr(processor, "image_processor") else None
        self.runner = ProcessorRunner(processor, plugin.processor_kwargs(processor, options), image_tokens)
        self.tokenizer = self.runner.tokenizer
        self.encoder = TextEncoder(self.tokenizer)
        self.guard = ControlTokenGuard(self._control_tokens(plugin.allowed_special))
        self._plan = lru_cache(maxsize=_PLAN_CACHE_SIZE)(self._plan_image)
        self._markup = lru_cache(maxsize=_PLAN_CACHE_SIZE)(self._find_markup)
        self._plan_row = lru_cache(maxsize=_PLAN_CACHE_SIZE)(self._plan_images)

    def _control_tokens(self, allowed: Sequence[str] | Literal["all"]) -> list[str]:
        if allowed == "all":
            return []
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return [token for token in {*special, *self.runner.placeholders.values()} if token not in allowed]

    @cached_property
    def media_token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for one feature each."""
        tokens = [self.runner.image_token] if "image" in self.runner.placeholders else []
        return tuple(self.tokenizer.convert_tokens_to_ids(tokens))

    def is_media_token(self, ids: np.ndarray) -> np.ndarray:
        """Boolean mask, of the same shape, of the media tokens among token ids."""
        mask = np.zeros(ids.shape, dtype=bool)
        for token_id in self.media_token_ids:  # a handful: quicker than np.isin
            mask |= ids == token_id
        return mask

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template to render with: the plugin's, else the processor's, else the tokenizer's own.

        Raises:
            TemplateError: If there is none.
        """
        plugin, own = self._plugin, getattr(self.runner.processor, "chat_template", None)
        for candidate in (plugin.chat_template, own, self.tokenizer.chat_template, plugin.default_chat_template):
            template = candidate.get("default") if isinstance(candidate, dict) else candidate
            if template:
                return ChatTemplate(template, self.tokenizer.special_tokens_map, plugin.train_on)
        raise TemplateError(
            f"{type(self.runner.processor).__name__} has no chat template; pass chat_template=... to the plugin"
        )

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the processor's call has the tokenizer add bos and eos to a text: not where it starts with bos."""
        bos = self.tokenizer.bos_token
        return self.runner.adds_special_tokens and not (bos is not None and text.startswith(bos))

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the chat template writes the media token for an image part; older ones only take strings."""
        if "image" not in self.runner.placeholders:
            return True
        try:
            text = self.template.render([{"role": "user", "content": [{"type": "image"}]}]).text
        except TemplateError:
            return False
        return text.count(self.runner.placeholders["image"]) == 1

    def markup(self, index: int) -> tuple[str, str]:
        """What the chat template writes before and after the placeholder of a row's image number `index`."""
        return self._markup(index)

    def _find_markup(self, index: int) -> tuple[str, str]:
        placeholder = self.runner.placeholders["image"]
        part, mark = {"type": "image"}, {"type": "text", "text": _MARK}
        # A mark stands before the images, and one behind each.
        text = self.template.render([{"role": "user", "content": [mark, *[part, mark] * (index + 1)]}]).text
        pieces = text.split(_MARK)
        if len(pieces) == index + 3 and pieces[index + 1].count(placeholder) == 1:
            before, _, after = pieces[index + 1].partition(placeholder)
            return before, after
        return self._find_first_markup()

    def _find_first_markup(self) -> tuple[str, str]:
        """The same for templates that put images before all text."""
        part, mark = {"type": "image"}, {"type": "text", "text": _MARK}
        alone = self.template.render([{"role": "user", "content": [mark]}]).text.partition(_MARK)[0]
        text = self.template.render([{"role": "user", "content": [part, mark]}]).text.partition(_MARK)[0]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, text, strict=False)))
        before, _, after = text[same:].partition(self.runner.placeholders["image"])
        return before, after

    def probe_images(self, images: Sequence[ImageReference], column: str) -> list[ImageInfo]:
        """Reads the headers of a row's images.

        Raises:
            MediaError: If one cannot be used. Names column, index and source.
        """
        infos = []
        for index, reference in enumerate(images):
            try:
                infos.append(probe_image(reference, self.options))
            except MediaError as error:
                raise error.at(column=column, index=index, source=describe_source(reference)) from error.__cause__
        return infos

    def plan_images(
        self, images: Sequence[ImageReference], infos: Sequence[ImageInfo], column: str
    ) -> list[Expansion]:
        """What images of these sizes become in the text.

        Raises:
            MediaError: If the processor refuses one. Names column, index and source.
        """
        if images and "image" not in self.runner.placeholders:
            raise MediaError(
                f"{type(self.runner.processor).__name__} takes no images, but the row has {len(images)}", column=column
            )
        if len(images) > 1 and not self._plugin.items_are_independent:
            try:
                return list(self._plan_row(tuple(infos)))
            except MediaError as error:
                raise error.at(column=column) from error.__cause__
        expansions = []
        for index, (reference, info) in enumerate(zip(images, infos, strict=True)):
            try:
                expansions.append(self._plan(info.width, info.height))
            except MediaError as error:
                raise error.at(column=column, index=index, source=describe_source(reference)) from error.__cause__
        return expansions

    def _plan_image(self, width: int, height: int) -> Expansion:
        size = self._size_before_processor(ImageInfo(width, height))
        return self._plugin.plan_image(self.runner, size)

    def _plan_images(self, infos: tuple[ImageInfo, ...]) -> tuple[Expansion, ...]:
        return tuple(self.runner.plan_images([self._size_before_processor(info) for info in infos]))

    def _size_before_processor(self, info: ImageInfo) -> ImageInfo:
        if self._plugin.processor_sizes_images:
            return info
        return fit_pixels(info, self.options.image_min_pixels, self.options.image_max_pixels)

    def load_images(self, images: Sequence[ImageReference]) -> list[torch.Tensor]:
        """Decodes images, each distinct file once, to the size that was planned.

        Returns:
            `torch.uint8` tensors `(3, height, width)`, RGB.

        Raises:
            MediaError: If one cannot be decoded. Names index and source.
        """
        decoded: dict[object, torch.Tensor] = {}
        result = []
        for index, reference in enumerate(images):
            key = _identity(reference)
            if key not in decoded:
                try:
                    decoded[key] = self._load_image(reference)
                except MediaError as error:
                    raise error.at(index=index, source=describe_source(reference)) from error.__cause__
            result.append(decoded[key])
        return result

    def locate_refusal(
        self, error: MediaProcessorError, images: Sequence[ImageReference], decoded: Sequence[torch.Tensor]
    ) -> MediaProcessorError:
        """The processor's error on a batch, at the first image that it refuses by itself, where there is one."""
        for index, (reference, image) in enumerate(zip(images, decoded, strict=True)):
            try:
                self._plugin.plan_image(self.runner, ImageInfo(width=image.shape[2], height=image.shape[1]))
            except MediaProcessorError as own:
                return own.at(index=index, source=describe_source(reference))
        return error

    @cached_property
    def blank_image(self) -> tuple[torch.Tensor, list[int]]:
        """The smallest square black image that the processor takes, and the token ids that it becomes.

        For batches that must not be without media. The tensor is `torch.uint8` `(3, side, side)`.
        """
        for side in _BLANK_SIDES:
            try:
                expansion = self._plan(side, side)
            except MediaError:
                continue
            tokens = self.encoder.encode([[Piece(expansion.text, 0, literal=False)]], [False])[0].ids
            counts = np.ones(len(tokens), dtype=np.int64)
            counts[self.is_media_token(tokens)] = expansion.runs
            return torch.zeros((3, side, side), dtype=torch.uint8), np.repeat(tokens, counts).tolist()
        raise MediaError(
            f"{type(self.runner.processor).__name__} takes no blank image of {_BLANK_SIDES} pixels a side"
        )

    def _load_image(self, reference: ImageReference) -> torch.Tensor:
        image = decode_image(reference, self.options)
        info = ImageInfo(width=image.shape[2], height=image.shape[1])
        size = self._size_before_processor(info)
        if size == info:
            return image
        resized: torch.Tensor = tv.resize(
            image, [size.height, size.width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True
        )
        return resized


def _identity(reference: ImageReference) -> object:
    """Equal for references to the same file."""
    if isinstance(reference, dict):
        return reference.get("bytes") or reference.get("path") or id(reference)
    return reference if isinstance(reference, str | bytes) else id(reference)
