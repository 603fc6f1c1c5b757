"""How a processor is put together, where its class, its parts' classes and a tokenizer are all there is to it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.registry import family, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer
from mmdatasets.types import MODALITIES, Modality

_PARTS: Mapping[str, Modality] = {
    "image_processor": "image",
    "video_processor": "video",
    "feature_extractor": "audio",
    "audio_processor": "audio",
}


@dataclass(frozen=True)
class Recipe:
    """How to build a processor.

    Attributes:
        checkpoint: The checkpoint that transformers' documentation of the class names.
        kind: The processor's class.
        parts: Argument -> class of the processor's parts, besides the tokenizer.
        named: Attribute of the tokenizer -> token.
        tokens: Further special tokens.
        settings: Further arguments of the processor.
        part_settings: Argument -> arguments of the part.
        bos: The tokenizer's beginning of a text.
        wrapped: Whether the template puts the tokenizer's image start and end tokens around an image.
        heard: What the template writes for audio, as a Jinja expression.
        plugin: The plugin that is made for it.
        packages: Packages that its parts need, which are not among this package's own.
    """

    checkpoint: str
    kind: str
    parts: Mapping[str, str]
    named: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    part_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    bos: str | None = None
    wrapped: bool = False
    heard: str = "audio_token"
    plugin: str = "generic"
    packages: tuple[str, ...] = ()


def image(name: str) -> dict[str, str]:
    """The parts of a processor of images, by the name that its classes begin with."""
    return {"image_processor": f"{name}ImageProcessor"}


def both(name: str, video: str | None = None) -> dict[str, str]:
    """The parts of a processor of images and videos; `video` where its video processor is another's."""
    return {"image_processor": f"{name}ImageProcessor", "video_processor": f"{video or name}VideoProcessor"}


def register_recipes(recipes: Mapping[str, Recipe]) -> None:
    """Registers families, by name, without tiny models."""
    for name, recipe in recipes.items():
        modalities = {_PARTS[argument] for argument in recipe.parts}
        family(
            name,
            checkpoint=recipe.checkpoint,
            modalities=tuple(kind for kind in MODALITIES if kind in modalities),
            plugin=recipe.plugin,
            has_model=False,
            packages=recipe.packages,
        )(partial(_build, recipe))


def _build(recipe: Recipe) -> ProcessorMixin:
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *recipe.tokens],
        named_tokens=recipe.named,
        bos_token=recipe.bos,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    parts = {
        argument: getattr(transformers, name)(**deepcopy(dict(recipe.part_settings.get(argument, {}))))
        for argument, name in recipe.parts.items()
    }
    processor: ProcessorMixin = getattr(transformers, recipe.kind)(tokenizer=tokenizer, **parts, **recipe.settings)
    template = read_chat_template("chatml").replace("audio_token -", f"{recipe.heard} -")
    if recipe.wrapped:
        template = template.replace("image_token", "image_start_token ~ image_token ~ image_end_token")
    # Not every class takes it as an argument.
    processor.chat_template = template
    return processor
