"""Files of pictures: read back as they were, byte for byte the same for the same pictures."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets import MediaOptions
from mmdatasets.errors import MediaDecodeError, MediaLimitError
from mmdatasets.media.content_store import store_content
from mmdatasets.media.picture_store import read_pictures, write_pictures

OPTIONS = MediaOptions()
SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def pictures(*sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"resize {width}x{height} bicubic, number {number}": torch.randint(
            0, 256, (3, height, width), dtype=torch.uint8, generator=generator
        )
        for number, (width, height) in enumerate(sizes)
    }


@settings(max_examples=30)
@given(sizes=st.lists(SIZES, min_size=1, max_size=5))
def test_pictures_are_read_back_exactly(sizes):
    made = pictures(*sizes)
    content = write_pictures(made)
    assert content == write_pictures(made)
    read = read_pictures({"bytes": content, "path": None}, OPTIONS)
    assert list(read) == list(made)
    for name, picture in read.items():
        assert picture.is_contiguous()
        assert torch.equal(picture, made[name])


def test_a_file_is_one_that_anybody_reads():
    made = pictures((70, 50), (20, 30))
    image = PIL.Image.open(io.BytesIO(write_pictures(made)))
    for number, picture in enumerate(made.values()):
        image.seek(number)
        assert np.array_equal(np.asarray(image), picture.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("sizes", [[(90, 60)], [(90, 60), (33, 47)]], ids=["JPEG", "TIFF"])
def test_a_lossy_file_is_smaller_and_alike(sizes):
    smooth = {
        name: torch.nn.functional.interpolate(picture[None, :, :4, :4].float(), picture.shape[-2:], mode="bicubic")[0]
        .clamp(0, 255)
        .byte()
        for name, picture in pictures(*sizes).items()
    }
    content = write_pictures(smooth, 90)
    assert content == write_pictures(smooth, 90)
    assert len(content) < len(write_pictures(smooth)) / 3
    read = read_pictures(content, OPTIONS)
    assert list(read) == list(smooth)
    for name, picture in read.items():
        assert picture.shape == smooth[name].shape
        assert 0 < (picture.float() - smooth[name].float()).abs().mean() < 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_an_error(quality, kept):
    content = write_pictures(pictures((70, 50), (60, 40)), quality)
    with pytest.raises(MediaDecodeError, match=r"damaged|not a readable image"):
        read_pictures(content[: int(kept * len(content))], OPTIONS)


def test_another_file_is_an_error():
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(MediaDecodeError, match="does not say what its pictures are"):
        read_pictures(buffer.getvalue(), OPTIONS)


def test_the_pixel_limit_holds():
    with pytest.raises(MediaLimitError):
        read_pictures(write_pictures(pictures((10, 10), (50, 50))), MediaOptions(image_pixel_limit=2_000))


def test_the_same_content_is_stored_once(tmp_path):
    contents = [write_pictures(pictures((10, 10))), write_pictures(pictures((10, 10))), b"RIFF...."]
    stored = [store_content(content, str(tmp_path / "store")) for content in contents]
    assert stored[0] == stored[1]
    assert [reference["bytes"] for reference in stored] == [None] * 3
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".tif", ".wav"]
    assert list(read_pictures(stored[0], OPTIONS)) == list(pictures((10, 10)))
