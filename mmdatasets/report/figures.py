"""The plots of a report: SVG as data URIs, in a light and a dark variant, with text that says what is to be seen.

They are drawn with matplotlib's objects, never with pyplot, which keeps figures and settings for the whole process.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.errors import MissingExtraError
from mmdatasets.report.wording import count, number, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmdatasets.report.lengths import Histogram, LengthHistogram, PackingFill, PaddingWaste, Suggestion

# Stand for the colours of the two variants, which are put in their place in the finished drawing.
_INK, _GRID, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404"
_LIGHT: Mapping[str, str] = {_INK: "#3f4650", _GRID: "#d5d9e0", _FIRST: "#2f6db5", _SECOND: "#c2571a"}
_DARK: Mapping[str, str] = {_INK: "#c3cad4", _GRID: "#3a414c", _FIRST: "#6aa9ee", _SECOND: "#f0935a"}

_WIDE, _SMALL = (6.0, 2.6), (3.2, 2.0)
_TEXT = 8.5


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot for a page.

    Attributes:
        light: `data:` URI for a light background.
        dark: `data:` URI for a dark one.
        width: CSS pixels.
        height: CSS pixels.
        alt: What is to be seen.
    """

    light: str
    dark: str
    width: int
    height: int
    alt: str


def plot_rows(found: LengthHistogram, suggestion: Suggestion | None) -> Plot:
    """Rows by length, with the suggested `max_length`."""

    def draw(axes: Axes) -> None:
        _bars(axes, found["edges"], found["rows"], _FIRST)
        if suggestion is not None:
            _mark(axes, found["edges"], suggestion["max_length"])
        _label(axes, "tokens of a row" + _open(found["edges"], found["open_end"]), "rows")

    most = max(range(len(found["rows"])), key=found["rows"].__getitem__)
    alt = (
        f"Histogram of the rows' lengths. Most rows ({count(found['rows'][most])}) have {_range(found, most)} tokens."
    )
    return _plot(draw, _WIDE, alt)


def plot_tokens(found: LengthHistogram) -> Plot:
    """Tokens of text and of media by the length of their rows."""

    def draw(axes: Axes) -> None:
        _bars(axes, found["edges"], found["text_tokens"], _FIRST, label="text")
        _bars(axes, found["edges"], found["media_tokens"], _SECOND, below=found["text_tokens"], label="media")
        _label(axes, "tokens of a row" + _open(found["edges"], found["open_end"]), "tokens")
        _legend(axes)

    text, media = sum(found["text_tokens"]), sum(found["media_tokens"])
    part = share(media / (text + media)) if text + media else share(0)
    alt = f"Tokens by the length of the rows that have them: {count(text)} of text, {count(media)} of media ({part})."
    return _plot(draw, _WIDE, alt)


def plot_histogram(found: Histogram, name: str, what: str) -> Plot:
    """Media items by one of their numbers.

    Args:
        found: The histogram.
        name: What the number is, with its unit.
        what: What has it.
    """

    def draw(axes: Axes) -> None:
        _bars(axes, found["edges"], found["counts"], _SECOND)
        _label(axes, name + _open(found["edges"], found["open_end"]), what)

    most = max(range(len(found["counts"])), key=found["counts"].__getitem__)
    low, high = number(found["edges"][most]), number(found["edges"][most + 1])
    peak = f"most of them, {count(found['counts'][most])}, from {low} to {high}"
    return _plot(draw, _SMALL, f"Histogram of {what} by {name}: {peak}.")


def plot_padding(found: Sequence[PaddingWaste]) -> Plot:
    """Padding waste by batch size."""
    return _pairs(
        [str(one["batch_size"]) for one in found],
        ("random order", [one["random"] for one in found]),
        ("sorted by length", [one["sorted"] for one in found]),
        "rows of a batch",
        "padding",
    )


def plot_packing(found: Sequence[PackingFill]) -> Plot:
    """Fill of packed rows by their length."""
    return _pairs(
        [count(one["max_length"]) for one in found],
        ("best fit", [one["best_fit"] for one in found]),
        ("in order", [one["sequential"] for one in found]),
        "max_length",
        "fill of packed rows",
    )


def _pairs(
    names: Sequence[str], first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]], x: str, y: str
) -> Plot:
    """Two bars, which are shares, for each name."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        for offset, color, (label, values) in ((-0.2, _FIRST, first), (0.2, _SECOND, second)):
            axes.bar([place + offset for place in range(len(names))], values, 0.38, color=color, label=label)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(0, min(1.0, 1.25 * max([*first[1], *second[1], 0.01])))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes)

    said = [
        f"{name}: {share(one)} {first[0]}, {share(other)} {second[0]}"
        for name, one, other in zip(names, first[1], second[1], strict=True)
    ]
    return _plot(draw, _WIDE, f"{y.capitalize()} by {x}. {'; '.join(said)}.")


def _plot(draw: Callable[[Axes], None], inches: tuple[float, float], alt: str) -> Plot:
    """Draws once, and colours it twice.

    Raises:
        MissingExtraError: `matplotlib` is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.for_package("matplotlib", "preview", "a report's page") from error
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    _style(axes)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    variants = [_coloured(svg, colours) for colours in (_LIGHT, _DARK)]
    return Plot(variants[0], variants[1], round(inches[0] * 96), round(inches[1] * 96), alt)


def _coloured(svg: str, colours: Mapping[str, str]) -> str:
    for stand_in, colour in colours.items():
        svg = svg.replace(stand_in, colour)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _bars(
    axes: Axes,
    edges: Sequence[float],
    values: Sequence[int],
    color: str,
    *,
    below: Sequence[int] | None = None,
    label: str | None = None,
) -> None:
    width = edges[1] - edges[0]
    bottom = [0] * len(values) if below is None else below
    axes.bar(edges[:-1], values, width * 0.92, bottom, align="edge", color=color, label=label)
    axes.set_xlim(edges[0], edges[-1])


def _mark(axes: Axes, edges: Sequence[float], at: float) -> None:
    if at > edges[-1]:
        return
    axes.axvline(at, color=_SECOND, linewidth=1.4, linestyle=(0, (4, 2)))
    left = at > 0.6 * edges[-1]
    axes.annotate(
        f"suggested {count(at)}",
        (at, 0.96),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=_SECOND,
        fontsize=_TEXT,
    )


def _label(axes: Axes, x: str, y: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _position: int | None = None) -> str:
    """A number on an axis: `1.5k`, `2M`."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * factor or (abs(value) >= factor and value % (factor / 10) == 0):
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False,
        labelcolor=_INK,
        fontsize=_TEXT,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        borderaxespad=0.1,
    )


def _style(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_INK, labelsize=_TEXT, length=0, labelcolor=_INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
        axis.label.set_fontsize(_TEXT)


def _open(edges: Sequence[float], is_open: bool) -> str:
    return f" (the last bar: {number(edges[-2])} and more)" if is_open else ""


def _range(found: LengthHistogram, place: int) -> str:
    if found["open_end"] and place == len(found["rows"]) - 1:
        return f"{count(found['edges'][place])} or more"
    return f"{count(found['edges'][place])} to {count(found['edges'][place + 1] - 1)}"
