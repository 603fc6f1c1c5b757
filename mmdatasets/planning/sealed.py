"""Pixels of which a processor may see the shape and ask for other sizes, and nothing else.

Image processors look at an image's shape, have torchvision resize it, once or several times, and work on the results.
An image that refuses everything else tells two things: while its resizes are recorded, that nothing but their results
goes into what the processor makes of it; and later, with the recorded results in its place and no pixels of its own,
that they do so again. The processor sees the original's shape both times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch._C import DisableTorchFunctionSubclass
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from mmdatasets.errors import MaterialiseError

_ABOUT_SHAPE = frozenset(
    {
        *("__get__", "__len__", "__hash__", "size", "dim", "ndimension", "stride", "storage_offset", "numel"),
        *(
            "nelement",
            "element_size",
            "is_contiguous",
            "is_floating_point",
            "is_complex",
            "get_device",
            "untyped_storage",
        ),
    }
)
"""Functions of a tensor whose results, where they are no tensors, do not depend on its values."""


class PixelsReadError(MaterialiseError):
    """A processor uses pixels otherwise than by resizing whole frames, and so needs the original."""


class FrameSource(Protocol):
    """Where the results of resizing come from."""

    @property
    def has_pixels(self) -> bool:
        """Whether the frames have their own pixels."""
        ...

    def resized(self, number: int, how: str, made: torch.Tensor | None) -> torch.Tensor:
        """A frame at another size.

        Args:
            number: Which frame.
            how: What is done with it, in words: different ways to resize have different ones.
            made: `(3, height, width)` what resizing it gave, where it has pixels.
        """
        ...


@dataclass(slots=True)
class ResizeRecorder:
    """Keeps what frames are resized to.

    Attributes:
        results: For each frame, by how it is resized, `torch.uint8` `(3, height, width)`.
    """

    results: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    has_pixels = True

    def resized(self, number: int, how: str, made: torch.Tensor | None) -> torch.Tensor:
        """Keeps the result."""
        if made is None:
            raise RuntimeError("frames that are recorded have pixels")
        self.results.setdefault(number, {})[how] = made
        return made


@dataclass(frozen=True, slots=True)
class StoredResizes:
    """Gives what was recorded, and no pixels.

    Attributes:
        results: For each frame, by how it is resized, `torch.uint8` `(3, height, width)`.
    """

    results: Sequence[Mapping[str, torch.Tensor]]
    has_pixels = False

    def resized(self, number: int, how: str, made: torch.Tensor | None) -> torch.Tensor:
        """The recorded result.

        Raises:
            PixelsReadError: If there is none.
        """
        if how not in self.results[number]:
            known = " and ".join(map(repr, self.results[number]))
            raise PixelsReadError(
                f"it was materialised by {known}, and is wanted by {how!r}: the plugin's options or its processor "
                "changed, or what becomes of an item depends on what it is batched with"
            )
        return self.results[number][how]


@dataclass(frozen=True, slots=True)
class _Frame:
    source: FrameSource
    number: int
    before: str = ""  # what was done with it before it is resized


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the frames of a tensor lie in its memory: a view that has them whole, in order, has these strides."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    frame_stride: int
    offset: int

    @classmethod
    def of(cls, pixels: torch.Tensor) -> _Layout:
        size, strides = tuple(pixels.shape[-3:]), pixels.stride()[-3:]
        has_pixels = any(stride and length > 1 for length, stride in zip(size, strides, strict=True))
        return cls(size, strides, math.prod(size) if has_pixels else 1, int(pixels.storage_offset()))

    def select(self, view: torch.Tensor, frames: Sequence[_Frame]) -> Sequence[_Frame]:
        """The frames of a view.

        Raises:
            PixelsReadError: If they are not whole, or in another order.
        """
        if tuple(view.shape[-3:]) != self.size or view.stride()[-3:] != self.strides:
            raise PixelsReadError("it resizes a part of the original")
        count = 1
        for length, stride in zip(reversed(view.shape[:-3]), reversed(view.stride()[:-3]), strict=True):
            if length > 1 and stride != count * self.frame_stride:
                raise PixelsReadError("it puts frames in another order")
            count *= length
        first = (int(view.storage_offset()) - self.offset) // self.frame_stride
        return frames[first : first + count]


class SealedPixels(tv_tensors.TVTensor):  # type: ignore[misc]
    """An image `(3, height, width)` or frames `(num_frames, 3, height, width)`, `torch.uint8`, that are sealed.

    Views of it are sealed, too. What torchvision's `resize` makes of whole frames is an ordinary tensor; whatever else
    would read them raises `PixelsReadError`.
    """

    _frames: Sequence[_Frame]
    _layout: _Layout

    @classmethod
    def seal(cls, pixels: torch.Tensor, source: FrameSource) -> SealedPixels:
        """Seals pixels whose resizes are recorded."""
        count = pixels.shape[0] if pixels.ndim > 3 else 1
        return cls._wrap(pixels, [_Frame(source, number) for number in range(count)], _Layout.of(pixels))

    @classmethod
    def stand_in(cls, shape: Sequence[int], source: FrameSource) -> SealedPixels:
        """What has the shape of an original, and none of its pixels."""
        return cls.seal(_blank(shape), source)

    @classmethod
    def _wrap(cls, pixels: torch.Tensor, frames: Sequence[_Frame], layout: _Layout) -> SealedPixels:
        sealed = pixels.as_subclass(cls)
        sealed._frames, sealed._layout = frames, layout
        return sealed

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"

    @property
    def selected(self) -> Sequence[_Frame]:
        """The frames of this view, in order."""
        return self._layout.select(_plain(self), self._frames)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Runs what looks at the shape or makes a view.

        Raises:
            PixelsReadError: For anything else.
        """
        kwargs = kwargs or {}
        with DisableTorchFunctionSubclass():
            if func is torch.stack:
                return _stack(*args, **kwargs)  # type: ignore[arg-type]
            sealed: SealedPixels = next(one for one in tree_leaves((args, kwargs)) if isinstance(one, cls))
            if func is torch.Tensor.contiguous and len(args) == 1 and not kwargs:
                return _contiguous(sealed)
            version = sealed._version
            result = func(*args, **kwargs)
            if sealed._version != version:
                raise PixelsReadError(f"it changes the original's pixels ({_name(func)})")
            return _resealed(result, sealed, _name(func))


def _resealed(result: object, sealed: SealedPixels, name: str) -> object:
    if isinstance(result, torch.Tensor):
        if result.untyped_storage().data_ptr() != sealed.untyped_storage().data_ptr():
            raise PixelsReadError(f"it reads the original's pixels ({name})")
        return SealedPixels._wrap(result.as_subclass(torch.Tensor), sealed._frames, sealed._layout)
    if isinstance(result, list | tuple) and any(isinstance(item, torch.Tensor) for item in result):
        return type(result)([_resealed(item, sealed, name) for item in result])
    if name not in _ABOUT_SHAPE:
        raise PixelsReadError(f"it reads the original's pixels ({name})")
    return result


def _name(func: Callable[..., object]) -> str:
    return getattr(func, "__name__", str(func))


def _contiguous(sealed: SealedPixels) -> SealedPixels:
    """The same frames, each channel in one block of memory."""
    frames, plain = sealed.selected, _plain(sealed)
    copied = plain.contiguous() if all(frame.source.has_pixels for frame in frames) else _blank(plain.shape)
    return SealedPixels._wrap(copied, frames, _Layout.of(copied))


def _plain(pixels: torch.Tensor) -> torch.Tensor:
    with DisableTorchFunctionSubclass():
        return pixels.as_subclass(torch.Tensor)


def _blank(shape: Sequence[int]) -> torch.Tensor:
    """A byte for each frame, by whose place frames are told apart, stands for all of its pixels.

    The channels, lines and columns of a frame cannot be told apart: that is left to the recording.
    """
    *lead, channels, height, width = shape
    bytes_ = torch.zeros(lead, dtype=torch.uint8)
    return bytes_[..., None, None, None].expand(*lead, channels, height, width)


def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> SealedPixels:
    """Several sealed items, of one size, as one."""
    if dim != 0 or not all(isinstance(one, SealedPixels) for one in tensors):
        raise PixelsReadError("it reads the original's pixels (stack)")
    frames = [frame for one in tensors for frame in one.selected]  # type: ignore[attr-defined]
    if all(frame.source.has_pixels for frame in frames):
        joined = torch.stack([_plain(one) for one in tensors])
    else:
        joined = _blank((len(tensors), *tensors[0].shape))
    return SealedPixels._wrap(joined, frames, _Layout.of(joined))


@tv.register_kernel(tv.resize, SealedPixels)  # type: ignore[untyped-decorator]
def _resize(
    pixels: SealedPixels,
    size: Sequence[int],
    interpolation: tv.InterpolationMode = tv.InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> torch.Tensor:
    """Torchvision's `resize` of sealed pixels, which is the one thing that reads them."""
    if size is None or len(size) != 2 or max_size is not None:
        raise PixelsReadError("it resizes the original to a size that is not said in full")
    wanted = int(size[0]), int(size[1])
    how = f"resize {wanted[1]}x{wanted[0]} {interpolation.value}{'' if antialias else ' aliased'}"
    frames, plain = pixels.selected, _plain(pixels)
    made: Sequence[torch.Tensor | None] = [None] * len(frames)
    if all(frame.source.has_pixels for frame in frames):
        resized: torch.Tensor = tv.resize(
            plain, list(wanted), interpolation=interpolation, max_size=max_size, antialias=antialias
        )
        made = list(resized.reshape(-1, *resized.shape[-3:]))
    results = [
        frame.source.resized(frame.number, frame.before + how, one) for frame, one in zip(frames, made, strict=True)
    ]
    joined = results[0][None] if len(results) == 1 else torch.stack(results)
    return joined.reshape(*plain.shape[:-3], *joined.shape[1:])


@tv.register_kernel(tv.pad, SealedPixels)  # type: ignore[untyped-decorator]
def _pad(
    pixels: SealedPixels,
    padding: Sequence[int] | int,
    fill: int | float | Sequence[float] | None = None,
    padding_mode: str = "constant",
) -> SealedPixels:
    """Torchvision's `pad` of sealed pixels, which stay sealed: what they are resized to next is kept."""
    frames, plain = pixels.selected, _plain(pixels)
    if all(frame.source.has_pixels for frame in frames):
        padded: torch.Tensor = tv.pad(plain, padding, fill=fill, padding_mode=padding_mode)
    else:
        one = torch.empty((1, *plain.shape[-3:]), dtype=plain.dtype, device="meta")
        padded = _blank((*plain.shape[:-3], *tv.pad(one, padding, fill=0).shape[1:]))
    how = f"pad {padding} {fill} {padding_mode}, ".replace("\n", " ")
    frames = [replace(frame, before=frame.before + how) for frame in frames]
    return SealedPixels._wrap(padded, frames, _Layout.of(padded))


@tv.register_kernel(tv.grayscale_to_rgb, SealedPixels)  # type: ignore[untyped-decorator]
def _grayscale_to_rgb(pixels: SealedPixels) -> SealedPixels:
    """Torchvision's `grayscale_to_rgb` of pixels that are RGB."""
    return pixels
