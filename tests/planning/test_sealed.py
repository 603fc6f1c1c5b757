"""Pixels that processors may look at only by their shape, and resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets.planning.sealed import PixelsReadError, ResizeRecorder, SealedPixels, StoredResizes

SIZE = [12, 20]
HOW = "resize 20x12 bicubic"


def frames(count: int | None = None, side: int = 30, seed: int = 0) -> torch.Tensor:
    """An image, or frames, as decoders give them: the channels of a pixel side by side."""
    shape = (side, side, 3) if count is None else (count, side, side, 3)
    values = np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
    return torch.from_numpy(values).movedim(-1, -3)


def resize(pixels: torch.Tensor, size=SIZE, interpolation=tv.InterpolationMode.BICUBIC) -> torch.Tensor:
    return tv.resize(pixels, size, interpolation=interpolation, antialias=True)


def recorded(pixels: torch.Tensor) -> tuple[SealedPixels, ResizeRecorder]:
    recorder = ResizeRecorder()
    return SealedPixels.seal(pixels, recorder), recorder


def stand_in(pixels: torch.Tensor, recorder: ResizeRecorder) -> SealedPixels:
    """What takes the place of pixels that were recorded."""
    stored = StoredResizes([recorder.results[number] for number in range(len(recorder.results))])
    return SealedPixels.stand_in(pixels.shape, stored)


VIEWS = {
    "itself": resize,
    "a batch of one": lambda image: resize(image.unsqueeze(0)),
    "indexed": lambda image: resize(image[None, None]),
    "reshaped": lambda image: resize(image.reshape(-1, *image.shape[-3:])),
    "contiguous": lambda image: resize(image.contiguous()),
    "twice": lambda image: torch.cat([resize(image).flatten(), resize(image, [7, 7]).flatten()]),
    "padded": lambda image: resize(tv.pad(image, [2, 0, 3, 5], fill=7)),
    "a grey image, it might be": lambda image: resize(tv.grayscale_to_rgb(image)),
}


@pytest.mark.parametrize("look", VIEWS.values(), ids=VIEWS)
def test_resized_views_are_recorded_and_played_back(look):
    image = frames()
    sealed, recorder = recorded(image)
    assert sealed.shape == image.shape
    assert (sealed.dtype, sealed.device, sealed.ndim, sealed.size(-1)) == (torch.uint8, image.device, 3, 30)
    made = look(sealed)
    assert type(made) is torch.Tensor
    assert torch.equal(made, look(image))
    assert torch.equal(look(stand_in(image, recorder)), made)


FRAMEWISE = {
    "all": resize,
    "a batch of one": lambda clip: resize(clip.unsqueeze(0)),
    "one by one": lambda clip: torch.stack([resize(frame) for frame in clip]),
    "in parts": lambda clip: torch.cat([resize(clip[:2]), resize(clip[2:])]),
    "some": lambda clip: torch.cat([resize(clip[1:3]), resize(clip[0:1]), resize(clip[3:5])]),
    "stacked": lambda clip: resize(torch.stack([clip, clip])),
    "frames of a stack": lambda clip: resize(torch.stack([clip[3], clip[0], clip[1], clip[4], clip[2]])),
    "a flattened stack": lambda clip: resize(torch.stack([clip, clip]).view(-1, 3, 30, 30)),
}


@pytest.mark.parametrize("look", FRAMEWISE.values(), ids=FRAMEWISE)
def test_frames_are_recorded_and_played_back(look):
    clip = frames(5)
    sealed, recorder = recorded(clip)
    made = look(sealed)
    assert torch.equal(made, look(clip))
    assert torch.equal(look(stand_in(clip, recorder)), made)


READS = {
    "float": lambda image: image.float(),
    "to": lambda image: image.to(torch.float32),
    "numpy": lambda image: image.numpy(),
    "array": np.asarray,
    "list": lambda image: image.tolist(),
    "item": lambda image: image[0, 0, 0].item(),
    "sum": lambda image: image.sum(),
    "max": lambda image: image.max(),
    "plus": lambda image: image + 1,
    "equal": lambda image: torch.equal(image, image),
    "clone": lambda image: image.clone(),
    "flip": lambda image: image.flip(0),
    "picked": lambda image: image[[2, 0, 1]],
    "concatenated": lambda image: torch.cat([image, image]),
    "in place": lambda image: image.add_(1),
    "assigned": lambda image: image.__setitem__(0, 5),
    "PIL": tv.to_pil_image,
    "normalised": lambda image: tv.normalize(image, [0.5] * 3, [0.5] * 3),
    "interpolated": lambda image: torch.nn.functional.interpolate(image[None], (5, 5)),
    "a part": lambda image: resize(image[:, 3:20, 4:25]),
    "stacked with others": lambda image: torch.stack([image, torch.zeros(3, 30, 30, dtype=torch.uint8)]),
    "a size that is not said": lambda image: tv.resize(image, [12], max_size=100),
}


REFUSALS = {"normalised": TypeError}  # torchvision's functions take no type that they do not know


@pytest.mark.parametrize("name", READS)
def test_whatever_else_reads_them_is_refused(name):
    sealed, recorder = recorded(frames())
    resize(sealed)
    with pytest.raises(REFUSALS.get(name, PixelsReadError)):
        READS[name](sealed)
    # Torch itself refuses to change what stands for many pixels.
    refusal = RuntimeError if name in ("in place", "assigned") else REFUSALS.get(name, PixelsReadError)
    with pytest.raises(refusal):
        READS[name](stand_in(frames(), recorder))


TURNED = {
    "transposed": lambda image: resize(image.transpose(-1, -2)),
    "one channel": lambda image: resize(image[:1].expand(3, -1, -1)),
}


@pytest.mark.parametrize("look", TURNED.values(), ids=TURNED)
def test_what_is_not_the_frame_as_it_was_is_not_recorded(look):
    with pytest.raises(PixelsReadError, match="a part"):
        look(recorded(frames())[0])


def test_frames_in_another_order_are_refused():
    clips = torch.stack([recorded(frames(4))[0], recorded(frames(4, seed=1))[0]])
    with pytest.raises(PixelsReadError, match="another order"):
        resize(clips.transpose(0, 1))


def test_what_was_made_otherwise_is_not_taken_for_it():
    """Neither another size, nor another interpolation, nor the same size of a padded image."""
    image = frames()
    sealed, recorder = recorded(image)
    resize(sealed)
    assert list(recorder.results[0]) == [HOW]
    blank = stand_in(image, recorder)
    with pytest.raises(PixelsReadError, match=f"materialised by '{HOW}', and is wanted by 'resize 21x12 bicubic'"):
        resize(blank, [12, 21])
    with pytest.raises(PixelsReadError, match="wanted by 'resize 20x12 bilinear'"):
        resize(blank, interpolation=tv.InterpolationMode.BILINEAR)
    with pytest.raises(PixelsReadError, match=r"wanted by 'pad .* resize 20x12 bicubic'"):
        resize(tv.pad(blank, [1, 1]))


def test_a_stand_in_takes_no_memory():
    """Of a terabyte of frames."""
    sealed = SealedPixels.stand_in((10_000, 3, 10_000, 4_000), StoredResizes([{}] * 10_000))
    assert sealed[7].unsqueeze(0).shape == (1, 3, 10_000, 4_000)
    assert sealed.untyped_storage().nbytes() == 10_000
