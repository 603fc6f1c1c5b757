"""The arguments that bound what an image becomes, of processors that enlarge small images as much as large ones.

Resizing an image before such a processor saves nothing: it becomes as many tiles as a large one of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorKwargs, ProcessorRunner
from mmdatasets.types import ImageInfo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_SMALL, _LARGE = ImageInfo(320, 240), ImageInfo(1280, 960)  # squares may become one tile, where others do not
_COUNTS = ("max_patches", "max_num_tiles")
"""Arguments that count tiles."""


@dataclass(frozen=True, slots=True)
class TileBound:
    """The settings of an argument that bounds what a processor enlarges an image to.

    Attributes:
        settings: The pixels that an image has at most with each setting, and the setting as keyword arguments; from
            the processor's own on down.
    """

    settings: Sequence[tuple[int, ProcessorKwargs]]

    @property
    def most(self) -> int:
        """The pixels that the processor by itself enlarges an image to at most."""
        return self.settings[0][0]

    def within(self, max_pixels: int) -> ProcessorKwargs:
        """The largest setting within a number of pixels; the smallest where none is."""
        return next((kwargs for pixels, kwargs in self.settings if pixels <= max_pixels), self.settings[-1][1])


def tile_bound(processor: ProcessorMixin | PreTrainedTokenizerBase) -> TileBound | None:
    """The argument with which a processor makes fewer tiles of an image, where resizing the image does not do that.

    The processor is asked: it must make as many tokens of a small image as of a large one, and fewer with the
    argument.
    """
    if getattr(processor, "image_processor", None) is None:
        return None
    for find in (_counted_tiles, _longest_edges, _soft_tokens):
        settings = list(find(_settings_of(processor)))
        if len(settings) > 1:
            found = _accepted(processor, settings)
            if found is not None:
                return found
    return None


def _settings_of(processor: ProcessorMixin | PreTrainedTokenizerBase) -> Callable[[str], object]:
    """What a processor's own call uses of the image processor's settings, by name."""
    given, own = ProcessorRunner(processor).kwargs("image"), processor.image_processor

    def setting(name: str) -> object:
        value = given.get(name)
        return getattr(own, name, None) if value is None else value

    return setting


def _accepted(
    processor: ProcessorMixin | PreTrainedTokenizerBase, settings: list[tuple[int, ProcessorKwargs]]
) -> TileBound | None:
    """Those of the settings that the processor takes, if they do anything."""
    own = _num_tokens(processor, {}, _LARGE)
    if own is None or own != _num_tokens(processor, {}, _SMALL):
        return None
    while len(settings) > 1:
        least = _num_tokens(processor, settings[-1][1], _LARGE)
        if least is not None:
            return TileBound(settings) if least < own else None
        settings.pop()
    return None


def _num_tokens(
    processor: ProcessorMixin | PreTrainedTokenizerBase, kwargs: ProcessorKwargs, info: ImageInfo
) -> int | None:
    try:
        return ProcessorRunner(processor, {"image": kwargs}).plan([info])[0].num_media_tokens
    except (MediaProcessorError, AttributeError):  # code of model hubs lacks the hooks
        return None


def _counted_tiles(setting: Callable[[str], object]) -> Iterator[tuple[int, ProcessorKwargs]]:
    """Processors that cover an image with up to so many tiles, whose side is `tile_size` or the `size`."""
    name = next((name for name in _COUNTS if isinstance(setting(name), int)), None)
    size, side = setting("size"), setting("tile_size")
    sides = (side, side) if side is not None else tuple(_edge(size, edge) for edge in ("height", "width"))
    if name is not None and all(isinstance(edge, int) for edge in sides):
        height, width = sides
        for count in range(setting(name), 0, -1):  # type: ignore[call-overload]
            yield count * height * width, {name: count}


def _longest_edges(setting: Callable[[str], object]) -> Iterator[tuple[int, ProcessorKwargs]]:
    """Processors that enlarge an image to a longest edge, and cut it into tiles of another one."""
    longest, side = _edge(setting("size"), "longest_edge"), _edge(setting("max_image_size"), "longest_edge")
    if isinstance(longest, int) and isinstance(side, int) and 0 < side <= longest:
        for count in range(longest // side, 0, -1):
            yield (count * side) ** 2, {"size": {"longest_edge": count * side}}


def _soft_tokens(setting: Callable[[str], object]) -> Iterator[tuple[int, ProcessorKwargs]]:
    """Processors that enlarge an image to so many tokens, which they take the half, the quarter and so on of."""
    count, patch, pooled = setting("max_soft_tokens"), setting("patch_size"), setting("pooling_kernel_size")
    if isinstance(count, int) and isinstance(patch, int) and isinstance(pooled, int):
        tokens, rest = count, 0
        while tokens and not rest:
            yield tokens * (patch * pooled) ** 2, {"max_soft_tokens": tokens}
            tokens, rest = divmod(tokens, 2)


def _edge(size: object, name: str) -> object:
    return size.get(name) if isinstance(size, Mapping) or hasattr(size, "get") else None
