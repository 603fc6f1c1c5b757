"""The resize before processors without a size argument for a budget of pixels."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.media.resize import resize
from mmdatasets.testing import build_processor, make_image

CHAT = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((100, 70), (53, 37)),
        ((100, 70), (161, 120)),
        ((400, 2), (89, 1)),
        ((100, 70), (1, 1)),
        ((2, 400), (1, 189)),
        ((1, 400), (1, 89)),
    ],
)
def test_it_is_pillows(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """Single columns included, with which torch's own fails."""
    image = PIL.Image.fromarray(np.asarray(make_image(*size)))
    expected = np.asarray(image.resize(resized, PIL.Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for given in (pixels, torch.stack([pixels, pixels])):
        made = resize(given, *resized)
        assert made.dtype == torch.uint8
        for one in made.reshape(-1, *made.shape[-3:]):
            assert np.abs(one.numpy().astype(int) - expected).max() <= 1


def test_a_budget_of_one_pixel_is_kept() -> None:
    plugin = auto_plugin(build_processor("llava"), options=MediaOptions(image_max_pixels=1))
    columns = plugin.transform({"messages": [CHAT], "images": [[make_image(100, 70)]]})
    batch = plugin.collator()([{name: column[0] for name, column in columns.items()}])
    assert batch["pixel_values"].shape == (1, 3, 336, 336)
