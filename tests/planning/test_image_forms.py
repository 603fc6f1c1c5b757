"""The forms in which images are handed to a processor, and how the one that it takes is found."""

from __future__ import annotations

import PIL.Image
import pytest
import torch

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.image_forms import ImageHandOver, one_list, one_list_a_row, pil_lists
from mmdatasets.planning.inputs import image_input
from mmdatasets.testing import build_processor
from mmdatasets.types import ImageInfo

ROWS = [[torch.full((3, 2, 4), 7, dtype=torch.uint8)], [], [torch.zeros((3, 4, 2), dtype=torch.uint8)] * 2]


def test_forms_hold_the_same_images() -> None:
    assert [len(row) for row in one_list_a_row(ROWS)] == [1, 0, 2]
    assert [image.shape for image in one_list(ROWS)] == [(3, 2, 4), (3, 4, 2), (3, 4, 2)]
    (first,), nothing, (second, _) = pil_lists(ROWS)
    assert (first.size, first.mode, first.getpixel((3, 1))) == ((4, 2), "RGB", (7, 7, 7))
    assert nothing == []
    assert second.size == (2, 4)


class Picky:
    """Takes images in one form, none of fewer than four pixels, and remembers its calls."""

    def __init__(self, takes):
        self.takes, self.calls = takes, 0

    def __call__(self, images):
        self.calls += 1
        inner = images[0] if isinstance(images[0], list) else images
        found = type(images[0]), type(inner[0])
        if found != self.takes:
            raise TypeError(f"{found}")
        width, height = inner[0].size if isinstance(inner[0], PIL.Image.Image) else inner[0].shape[1:]
        if width * height < 4:
            raise ValueError("too small")
        return found


NESTED, FLAT, PILLOW = (list, torch.Tensor), (torch.Tensor, torch.Tensor), (list, PIL.Image.Image)
LARGE, SMALL = [[torch.zeros((3, 2, 2), dtype=torch.uint8)]], [[torch.zeros((3, 1, 1), dtype=torch.uint8)]]


@pytest.mark.parametrize("takes", [NESTED, FLAT, PILLOW])
def test_the_form_is_found_once(takes) -> None:
    picky = Picky(takes)
    hand_over = ImageHandOver(picky)
    assert hand_over(LARGE) == takes
    calls = picky.calls
    assert calls == 1 or takes != NESTED
    assert hand_over(LARGE) == takes
    with pytest.raises(ValueError, match="too small"):
        hand_over(SMALL)
    assert picky.calls == calls + 2


@pytest.mark.parametrize("takes", [NESTED, FLAT, PILLOW])
def test_an_image_that_is_refused_first_settles_nothing_wrong(takes) -> None:
    hand_over = ImageHandOver(Picky(takes))
    with pytest.raises(ValueError, match="too small"):
        hand_over(SMALL)
    assert hand_over(LARGE) == takes


def test_a_processor_that_takes_no_form_says_why_and_is_not_searched_again() -> None:
    picky = Picky(None)
    hand_over = ImageHandOver(picky)
    with pytest.raises(TypeError, match="list"):
        hand_over(LARGE)
    calls = picky.calls
    with pytest.raises(TypeError, match="list"):
        hand_over(LARGE)
    assert picky.calls == calls + 1


@pytest.mark.parametrize(("name", "size"), [("emu3", (500, 300)), ("got_ocr2", (500, 300)), ("got_ocr2", (60, 900))])
def test_plans_are_what_becomes_of_real_images(name: str, size: tuple[int, int]) -> None:
    runner = ProcessorRunner(build_processor(name))
    width, height = size
    (planned,) = runner.plan([ImageInfo(width, height)])
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    _, expansions = runner.process([[image_input(image)], [image_input(image)]])
    assert expansions == [planned, planned]
