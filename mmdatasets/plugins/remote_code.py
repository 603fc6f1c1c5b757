"""What families share whose processor is code from a model hub: they have a call, but none of transformers' hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torchvision.transforms.v2 import functional as tv

from mmdatasets.errors import MediaProcessorError

if TYPE_CHECKING:
    import PIL.Image
    import torch
    from transformers import ProcessorMixin


def call_default(processor: ProcessorMixin, name: str) -> object | None:
    """The default of an argument of the processor's own call; `None` where it has no such argument."""
    parameter = inspect.signature(type(processor).__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def as_pil(images: Sequence[torch.Tensor]) -> list[PIL.Image.Image]:
    """Decoded images, `torch.uint8` `(3, height, width)`, for processors that take Pillow's alone."""
    return [tv.to_pil_image(image) for image in images]


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what a processor raises at an image that it does not take into an error that names the image.

    Raises:
        MediaProcessorError: For what the processor raised.
    """
    try:
        yield
    except MediaProcessorError:
        raise
    except (ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise MediaProcessorError(f"the model's processor refuses it: {error}") from error
