"""The forms in which processors take the images of a batch of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, product
from typing import Generic, TypeAlias, TypeVar

import torch
from torchvision.transforms.v2 import functional as tv

ImageRows: TypeAlias = Sequence[Sequence[torch.Tensor]]
"""The images of each row, `torch.uint8` tensors `(3, height, width)`."""

ImageForm: TypeAlias = Callable[[ImageRows], list[object]]
ResultT = TypeVar("ResultT")

_SIDE = 448


def one_list_a_row(rows: ImageRows) -> list[object]:
    """As the calls of transformers' processors take the images of a batch of conversations."""
    return [list(row) for row in rows]


def one_list(rows: ImageRows) -> list[object]:
    """For processors that take no nested lists (GOT-OCR 2)."""
    return list(chain(*rows))


def pil_lists(rows: ImageRows) -> list[object]:
    """For processors that take no tensors (Emu3)."""
    return [[tv.to_pil_image(image) for image in row] for row in rows]


IMAGE_FORMS: tuple[ImageForm, ...] = (one_list_a_row, one_list, pil_lists)
"""In the order in which they are tried."""


class ImageHandOver(Generic[ResultT]):
    """Calls a processor with images in the form that it takes, which is found where it refuses the usual one.

    Args:
        call: Calls the processor; raises what that raises.
    """

    def __init__(self, call: Callable[[list[object]], ResultT]) -> None:
        self._call = call
        self._form: ImageForm | None = None  # until images were taken

    def __call__(self, images: ImageRows) -> ResultT:
        """Calls the processor.

        Raises:
            Exception: What the processor raises.
        """
        try:
            result = self._call((self._form or one_list_a_row)(images))
        except Exception:
            if self._form is not None:
                raise
            self._form = self._find_form()
            if self._form is one_list_a_row:
                raise  # it is these images that it refuses
            return self._call(self._form(images))
        self._form = self._form or one_list_a_row
        return result

    def _find_form(self) -> ImageForm:
        """The first form in which the processor takes a medium-sized blank image; the usual one if it takes none."""
        for form, device in product(IMAGE_FORMS, ("meta", "cpu")):
            blank = torch.zeros((3, _SIDE, _SIDE), dtype=torch.uint8, device=device)
            try:
                self._call(form([[blank]]))
            except Exception:  # processors raise what their code raises
                continue
            return form
        return one_list_a_row
