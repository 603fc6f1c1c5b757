"""How a picture lies before the model: the size it is resized to, the grid of its tokens, the tiles it is cut into.

Nothing here is known of any family. The processor is run on a picture of the same size whose colours say where each
pixel is from, and what comes out is read: grids, where numbers of the output multiply to how many patches there are;
tiles, by the colours in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import torch

from mmdatasets.errors import MMDatasetsError
from mmdatasets.planning.inputs import blank_input
from mmdatasets.preview.facts import Layout, Tile
from mmdatasets.types import ImageInfo, MediaInput, VideoShape

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import Expansion, MediaShape

Outputs: TypeAlias = Mapping[str, object]

_MARK = 200
"""Blue of every pixel of the probe. Processors pad with black, white, grey or the mean of their training data."""
_OFF = 6.0  # of 255: resizing rounds, and rings at edges
_SQUARE = 0.02
_NEAR = 0.01


def find_layout(plugin: BasePlugin, engine: Engine, shape: MediaShape) -> Layout:
    """What the processor makes of the area of an image, or of each frame of a video.

    Args:
        plugin: Runs the processor as the collator does.
        engine: The processor at work.
        shape: The shape in which the processor gets it.

    Returns:
        What could be found out.
    """
    try:
        expansion = engine.media.expand_one(shape)
        outputs = _dry(plugin, engine, shape)
        side = None if isinstance(shape, ImageInfo) else _side_of_token(plugin, engine, shape)
        found = None if outputs is None else _grid_of(outputs, expansion, shape, side)
        if found is None and isinstance(shape, ImageInfo):
            found = _Probe(plugin, engine, shape).layout(expansion)
        return found or (Layout() if outputs is None else _one_picture(outputs))
    except (MMDatasetsError, ValueError, RuntimeError, TypeError, IndexError):  # whatever a processor's output is
        return Layout()


def _side_of_token(plugin: BasePlugin, engine: Engine, shape: MediaShape) -> int | None:
    """How many patches the side of an image's token is: a video's may be joined in time, too."""
    if "image" not in engine.runner.placeholders or not isinstance(shape, VideoShape):
        return None
    image = ImageInfo(shape.width, shape.height)
    outputs = _dry(plugin, engine, image)
    found = None if outputs is None else _grid_of(outputs, engine.media.expand_one(image), image, None)
    if found is None or found.rows is None or found.height is None:
        return None
    _, side = next(_patches_of_pixels(outputs or {}))
    return found.height // found.rows // side


def _dry(plugin: BasePlugin, engine: Engine, shape: MediaShape) -> Outputs | None:
    """What the processor makes of an item that has a shape and no pixels; `None` where it needs some."""
    for device in ("meta", "cpu") if isinstance(shape, VideoShape) else ("meta",):
        try:
            return plugin.process_media(engine, [[blank_input(shape, device)]])[0]
        except Exception:  # processors raise what their code raises
            continue
    return None


# ------------------------------------------------------------------------------------------------------------ grids


def _grid_of(outputs: Outputs, expansion: Expansion, shape: MediaShape, side_of_token: int | None) -> Layout | None:
    """The grid of patches, where the outputs say one that is as many as there are patches."""
    for count, side in _patches_in(outputs):
        for sizes in _sizes_in(outputs, shape):
            if sum(map(math.prod, sizes)) == count:
                return _grid(sizes, side, expansion, shape, side_of_token)
    return None


def _grid(
    sizes: Sequence[tuple[int, ...]],
    side: int,
    expansion: Expansion,
    shape: MediaShape,
    side_of_token: int | None,
) -> Layout | None:
    """The layout of pictures of so many patches each.

    Args:
        sizes: Rows and columns of patches, perhaps with a time before them.
        side: Pixels of a patch's side.
        expansion: Says how many tokens there are.
        shape: What the processor gets.
        side_of_token: Patches of a token's side, where that is known from images.
    """
    if len(set(sizes)) > 1 or (len(sizes) > 1 and isinstance(shape, ImageInfo)):
        return None
    steps, rows, columns = (1, *sizes[0])[-3:]
    steps *= len(sizes)
    if side_of_token is not None and steps > 1:
        steps, rest = divmod(expansion.num_media_tokens * side_of_token**2, rows * columns)
        merged = None if rest or rows % side_of_token or columns % side_of_token else side_of_token
    else:
        merged = _merge(steps * rows * columns, rows, columns, expansion.num_media_tokens)
    if merged is None:
        return Layout(columns * side, rows * side)
    return Layout(columns * side, rows * side, rows // merged, columns // merged, steps)


def _merge(count: int, rows: int, columns: int, tokens: int) -> int | None:
    """How many patches the side of a token is."""
    side = math.isqrt(count // tokens) if tokens and count % tokens == 0 else 0
    fits = side > 0 and side * side * tokens == count and rows % side == 0 and columns % side == 0
    return side if fits and (rows, columns) != (side, side) else None


def _patches_in(outputs: Outputs) -> Iterator[tuple[int, int]]:
    """How many patches there may be, and how many pixels the side of one is, by the tensors of pixels."""
    for count, side in _patches_of_pixels(outputs):
        yield count, side
        for value in outputs.values():  # where some are padding, a mask or a place says so
            if isinstance(value, torch.Tensor) and value.device.type != "meta" and not value.is_floating_point():
                if value.numel() == count:
                    yield int((value > 0).sum()), side
                elif value.numel() == 2 * count and value.shape[-1] == 2:
                    yield int((value >= 0).all(dim=-1).sum()), side


def _patches_of_pixels(outputs: Outputs) -> Iterator[tuple[int, int]]:
    for pixels in _pixels_in(outputs):
        if pixels.ndim == 4 and pixels.shape[:2] == (1, 3) and pixels.shape[3] % pixels.shape[2] == 0:
            yield pixels.shape[3] // pixels.shape[2], pixels.shape[2]  # patches side by side
        if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[2] == pixels.shape[3]:
            yield pixels.shape[0], pixels.shape[2]
        if pixels.ndim in (2, 3):
            for in_time in (1, 2):
                side = math.isqrt(pixels.shape[-1] // (3 * in_time))
                if side * side * 3 * in_time == pixels.shape[-1]:
                    yield math.prod(pixels.shape[:-1]), side


def _pixels_in(outputs: Outputs) -> Iterator[torch.Tensor]:
    for name, value in outputs.items():
        if name.startswith("pixel_values"):
            yield from _leaves(value)


def _leaves(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_leaves, value))


def _sizes_in(outputs: Outputs, shape: MediaShape) -> Iterator[list[tuple[int, ...]]]:
    """Tables of two or three numbers a line: heights and widths, perhaps with times before them."""
    for value in outputs.values():
        tables = [one for one in _leaves(value) if one.ndim >= 2 and one.shape[-1] in (2, 3)]
        if not tables or any(table.is_floating_point() or table.device.type == "meta" for table in tables):
            continue
        if all(table.ndim == 2 for table in tables):
            yield [tuple(map(int, line)) for table in tables for line in table.tolist()]
        elif len(tables) == 1 and len(tables[0]) == 1:
            yield from _extent(tables[0][0], shape)


def _extent(places: torch.Tensor, shape: MediaShape) -> Iterator[list[tuple[int, ...]]]:
    """The size of a grid, of which each patch's place is given, `(num_patches, 2)`; places of padding are negative."""
    used = places[(places >= 0).all(dim=1)]
    if isinstance(shape, ImageInfo) and len(used):
        first, second = (int(most) + 1 for most in used.amax(dim=0))
        if first * second == len(used):
            # Across or down comes first: the picture's own form tells.
            yield [max((first, second), (second, first), key=lambda size: -abs(_form(size, shape)))]


def _form(size: tuple[int, ...], shape: ImageInfo) -> float:
    return math.log(size[1] / size[0] * shape.height / shape.width)


def _one_picture(outputs: Outputs) -> Layout:
    """The size of the frames of a video, or of the only picture of an image, where they are tensors of pictures."""
    for pixels in _pixels_in(outputs):
        if pixels.ndim >= 4 and pixels.shape[-3] == 3 and pixels.shape[-2] > 16:
            return Layout(pixels.shape[-1], pixels.shape[-2])
    return Layout()


# ------------------------------------------------------------------------------------------------------------ tiles


class _Probe:
    """Pictures of one size, whose colours say where each pixel is from, through the processor."""

    def __init__(self, plugin: BasePlugin, engine: Engine, shape: ImageInfo) -> None:
        self._plugin, self._engine, self._shape = plugin, engine, shape

    def layout(self, expansion: Expansion) -> Layout | None:
        """What is found; `None` where nothing is."""
        across = (torch.arange(self._shape.width) + 0.5) / self._shape.width * 255
        down = (torch.arange(self._shape.height) + 0.5) / self._shape.height * 255
        outputs = self._run(_picture(across[None, :], down[:, None], float(_MARK)))
        grid = _grid_of(outputs, expansion, self._shape, None)
        if grid is not None:
            return grid
        pictures = _pictures_in(outputs, self._shape)
        if not pictures:
            return None
        black, white = (self._levels(level) for level in (0.0, 255.0))
        tiles = [_tile((one - black) / (white - black) * 255) for one in pictures]
        placed = [tile for tile in tiles if tile is not None]
        if len(placed) == 0:
            return Layout(num_pictures=len(pictures))
        return self._summed_up(placed, expansion)

    def _summed_up(self, tiles: Sequence[Tile], expansion: Expansion) -> Layout:
        parts = [tile for tile in tiles if not tile.is_whole] or list(tiles)
        first = max(parts, key=lambda tile: (tile.right - tile.left) * (tile.bottom - tile.top))
        width = _whole_length(first.width, first.right - first.left, self._shape.width)
        height = _whole_length(first.height, first.bottom - first.top, self._shape.height)
        clipped = tuple(_clipped(tile) for tile in tiles)
        if len(tiles) > 1:
            return Layout(width, height, tiles=clipped, num_pictures=len(tiles))
        rows, columns = self._cells(tiles[0], expansion) or (None, None)
        return Layout(width, height, rows, columns, tiles=clipped)

    def _cells(self, tile: Tile, expansion: Expansion) -> tuple[int, int] | None:
        """The grid of a single picture: its rows where each is a run of tokens, else by the processor's patch size."""
        runs = expansion.runs
        if len(runs) > 1:
            cell = tile.width / runs[0]
            is_square = abs(tile.height / len(runs) / cell - 1) < _SQUARE
            return (len(runs), runs[0]) if len(set(runs)) == 1 and is_square else None
        for part in (self._engine.runner.processor, getattr(self._engine.runner.processor, "image_processor", None)):
            side = getattr(part, "patch_size", None)
            if isinstance(side, int) and side and not (tile.width % side or tile.height % side):
                rows, columns = tile.height // side, tile.width // side
                merged = _merge(rows * columns, rows, columns, expansion.num_media_tokens)
                if merged is not None:
                    return rows // merged, columns // merged
        return None

    def _levels(self, level: float) -> torch.Tensor:
        """What the middle of a picture of one colour becomes, `(3, 1, 1)`."""
        picture = _pictures_in(self._run(_picture(level, level, level, self._shape)), self._shape)[0]
        return picture[:, picture.shape[1] // 2, picture.shape[2] // 2, None, None]

    def _run(self, picture: torch.Tensor) -> Outputs:
        return self._plugin.process_media(self._engine, [[MediaInput(self._shape, picture)]])[0]


def _picture(
    red: torch.Tensor | float, green: torch.Tensor | float, blue: float, size: ImageInfo | None = None
) -> torch.Tensor:
    """A picture `(3, height, width)` of colours that broadcast, stored as decoders give pixels."""
    if size is not None:
        return torch.full((size.height, size.width, 3), round(blue), dtype=torch.uint8).permute(2, 0, 1)
    first, second = torch.as_tensor(red), torch.as_tensor(green)
    zero = torch.zeros_like(first + second)
    return torch.stack([first + zero, second + zero, blue + zero], dim=-1).round().to(torch.uint8).permute(2, 0, 1)


def _pictures_in(outputs: Outputs, shape: ImageInfo) -> list[torch.Tensor]:
    """The pictures `(3, height, width)` that the model sees; patches that lie side by side are put together."""
    sizes = [size[-2:] for table in _sizes_in(outputs, shape) for size in table]
    pictures: list[torch.Tensor] = []
    for pixels in _pixels_in(outputs):
        if pixels.ndim < 3 or pixels.shape[-3] != 3:
            continue
        side = pixels.shape[-2]
        for picture in pixels.float().reshape(-1, *pixels.shape[-3:]):
            pictures += list(_put_together(picture, sizes)) if picture.shape[-1] > 64 * side else [picture]
    return pictures


def _put_together(strip: torch.Tensor, sizes: list[tuple[int, ...]]) -> Iterator[torch.Tensor]:
    side, at = strip.shape[-2], 0
    while sizes and at < strip.shape[-1]:
        rows, columns = sizes.pop(0)
        patches = strip[:, :, at : at + rows * columns * side].reshape(3, side, rows, columns, side)
        yield patches.permute(0, 2, 1, 3, 4).reshape(3, rows * side, columns * side)
        at += rows * columns * side


def _tile(picture: torch.Tensor) -> Tile | None:
    """Where a picture with the probe's colours is from; `None` where it shows nothing, or not a part of it."""
    inside = (picture[2] - _MARK).abs() < _OFF
    rows, columns = inside.sum(dim=1), inside.sum(dim=0)
    down, across = (counts > counts.max() / 2 for counts in (rows, columns))
    if inside.sum() < 4 or down.sum() < 2 or across.sum() < 2:
        return None
    content = picture[:, down][:, :, across]
    horizontal = _line(content[0].median(dim=0).values, across.nonzero().flatten())
    vertical = _line(content[1].median(dim=1).values, down.nonzero().flatten())
    if horizontal is None or vertical is None:
        return None
    height, width = picture.shape[1:]
    (x, dx), (y, dy) = horizontal, vertical
    return Tile(x / 255, y / 255, (x + dx * width) / 255, (y + dy * height) / 255, width, height)


def _line(values: torch.Tensor, places: torch.Tensor) -> tuple[float, float] | None:
    """Value at the edge of a picture and rise per pixel; `None` where values do not rise along a line."""
    at = places.double() + 0.5
    values = values.double()
    # Resizing rings at the borders of the picture, where bright and dark end.
    steady = (values > _OFF) & (values < 255 - _OFF)
    if int(steady.sum()) >= 2:
        at, values = at[steady], values[steady]
    mean = at.mean()
    rise = float(((at - mean) * (values - values.mean())).sum() / ((at - mean) ** 2).sum())
    start = float(values.mean() - rise * mean)
    if rise <= 0 or float((values - (start + rise * at)).abs().max()) > _OFF:
        return None
    return start, rise


def _whole_length(length: int, share: float, original: int) -> int:
    """Pixels of the whole, of which a share is so long: whole tiles or the original's length, where about that."""
    count = round(1 / share)
    for candidate in (count * length, original):
        if abs(candidate * share / length - 1) < _NEAR:
            return candidate
    return round(length / share)


def _clipped(tile: Tile) -> Tile:
    left, top, right, bottom = (min(1.0, max(0.0, edge)) for edge in (tile.left, tile.top, tile.right, tile.bottom))
    return Tile(left, top, right, bottom, tile.width, tile.height)
