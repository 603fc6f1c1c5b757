"""Where the tiles of a picture are, and its grid: against the pixels and numbers of the processor's own call."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets import auto_plugin
from mmdatasets.preview.layout import find_layout
from mmdatasets.testing import build_processor
from mmdatasets.types import FramePlan, ImageInfo, VideoShape

WIDTH, HEIGHT = 600, 400


@pytest.fixture(scope="module")
def photo():
    """Large soft spots of every colour: what resizing by different ways leaves nearly the same."""
    torch.manual_seed(0)
    small = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)
    return tv.resize(small, [HEIGHT, WIDTH], interpolation=tv.InterpolationMode.BICUBIC)


def pictures(value):
    return value.reshape(-1, *value.shape[-3:]).float()


@pytest.mark.parametrize(
    ("family", "num_tiles"), [("internvl", 7), ("llava_next", 5), ("llama4", 5), ("mllama", 2), ("llava", 1)]
)
def test_tiles_are_the_parts_that_the_processor_cuts_out(family, num_tiles, photo):
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    layout = find_layout(plugin, plugin.engine, ImageInfo(WIDTH, HEIGHT))
    assert len(layout.tiles) == num_tiles
    text = plugin.engine.runner.placeholders["image"]
    made = pictures(processor(images=[photo], text=[text], return_tensors="pt")["pixel_values"])
    for tile, picture in zip(layout.tiles, made, strict=False):
        left, right = round(tile.left * WIDTH), round(tile.right * WIDTH)
        top, bottom = round(tile.top * HEIGHT), round(tile.bottom * HEIGHT)
        part = photo[:, top:bottom, left:right]
        # A part is as large as the layout says; the whole fills its tile, or keeps its form in it.
        scale = max(part.shape[2] / tile.width, part.shape[1] / tile.height)
        sizes = [(round((tile.bottom - tile.top) * layout.height), round((tile.right - tile.left) * layout.width))]
        if tile.is_whole:
            sizes = [(tile.height, tile.width), (round(part.shape[1] / scale), round(part.shape[2] / scale))]
        assert max(_best_match(part, picture, size) for size in sizes) > 0.98, tile


def _best_match(part, picture, size):
    """How well a part fits into a picture that is padded at the right and bottom, or around it."""
    height, width = (min(side, most) for side, most in zip(size, picture.shape[1:], strict=True))
    part = tv.resize(part, [height, width], antialias=True).float()
    return max(
        _correlation(part, picture[:, y : y + height, x : x + width])
        for y in {0, (picture.shape[1] - height) // 2, picture.shape[1] - height}
        for x in {0, (picture.shape[2] - width) // 2, picture.shape[2] - width}
    )


def _correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v", "ernie4_5_vl"])
def test_grids_are_the_processors_own(family, photo):
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    layout = find_layout(plugin, plugin.engine, ImageInfo(WIDTH, HEIGHT))
    own = processor.image_processor
    _, rows, columns = processor.image_processor(photo, return_tensors="pt")["image_grid_thw"][0].tolist()
    assert (layout.rows, layout.columns) == (rows // own.merge_size, columns // own.merge_size)
    assert (layout.width, layout.height) == (columns * own.patch_size, rows * own.patch_size)
    shape = VideoShape(160, 96, FramePlan((0, 2, 4, 6), (0.0, 1.0, 2.0, 3.0)), 8, 2.0, 4.0)
    video = find_layout(plugin, plugin.engine, shape)
    tokens = plugin.engine.media.expand_one(shape).num_media_tokens
    assert video.steps * video.rows * video.columns == tokens
    assert video.width / video.columns == own.patch_size * own.merge_size


def test_a_grid_of_runs_and_one_of_positions(photo):
    plugin = auto_plugin(build_processor("pixtral"))
    layout = find_layout(plugin, plugin.engine, ImageInfo(WIDTH, HEIGHT))
    runs = plugin.engine.media.expand_one(ImageInfo(WIDTH, HEIGHT)).runs
    assert (layout.rows, layout.columns) == (len(runs), runs[0])
    plugin = auto_plugin(build_processor("gemma4"))
    for size in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        layout = find_layout(plugin, plugin.engine, ImageInfo(*size))
        assert layout.rows * layout.columns == plugin.engine.media.expand_one(ImageInfo(*size)).num_media_tokens
        assert (layout.columns > layout.rows) == (size[0] > size[1])


def test_what_is_not_known_is_not_said():
    """MiniCPM-V's tokens are no grid; Gemma 3's processor does not say how many patches are one token."""
    for family in ("gemma3", "paligemma"):
        plugin = auto_plugin(build_processor(family))
        layout = find_layout(plugin, plugin.engine, ImageInfo(WIDTH, HEIGHT))
        assert layout.grid is None
        assert layout.summary is None
        assert (layout.width, layout.height) == (layout.tiles[0].width, layout.tiles[0].height)
