"""A report as one HTML page that loads nothing, runs nothing, and shows all text of the data as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from mmdatasets.report import wording
from mmdatasets.report.figures import Plot, plot_histogram, plot_packing, plot_padding, plot_rows, plot_tokens
from mmdatasets.report.lengths import BATCH_SIZES, KEPT_SHARE, MULTIPLE
from mmdatasets.report.summary import KINDS

if TYPE_CHECKING:
    from jinja2 import Template

    from mmdatasets.report.data import ReportData
    from mmdatasets.report.lengths import Quantiles

_TEMPLATE = "page.html.jinja"
_PLURALS = {"image": "images", "video": "videos", "audio": "audio items"}
_POLICY_WORDS = {"dropped": "left out", "cut": "shortened", "shrunk": "with smaller media", "replaced": "replaced"}


@dataclass(frozen=True, slots=True)
class _Distribution:
    """A line of a table of distributions."""

    name: str
    cells: list[str]


def render_page(data: ReportData) -> str:
    """Makes the page.

    Args:
        data: The report's numbers.

    Raises:
        MissingExtraError: `matplotlib` is not installed.
    """
    found = data["length_histogram"]
    plots: dict[str, Plot] = {}
    if found is not None:
        plots["rows"] = plot_rows(found, data["suggestion"])
        plots["tokens"] = plot_tokens(found)
    if data["padding"]:
        plots["padding"] = plot_padding(data["padding"])
    if data["packing"]:
        plots["packing"] = plot_packing(data["packing"])
    histograms = {
        modality: [plot_histogram(one, name, _PLURALS[modality]) for name, one in facts["histograms"].items()]
        for modality, facts in data["media"].items()
    }
    return _template().render(
        data=data,
        plots=plots,
        histograms=histograms,
        plurals=_PLURALS,
        outcome_words=_POLICY_WORDS,
        unit=KINDS[data["kind"]],
        lengths=_lengths(data),
        settings=_settings(data["settings"]),
        distributions={
            modality: [_distribution(name, one) for name, one in facts["quantiles"].items()]
            for modality, facts in data["media"].items()
        },
        smallest_batch=BATCH_SIZES[0],
        multiple=MULTIPLE,
        kept=wording.share(KEPT_SHARE),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    words = {
        name: getattr(wording, name) for name in ("count", "compact", "share", "number", "size", "seconds", "several")
    }
    environment.filters.update({**words, "items_of": wording.items})
    return environment.from_string(resources.files("mmdatasets.report").joinpath(_TEMPLATE).read_text("utf-8"))


def _lengths(data: ReportData) -> list[_Distribution]:
    names = {
        "lengths": f"tokens of a {KINDS[data['kind']]}",
        "original_lengths": "before they were fitted into a length",
        "sequences": "tokens of a sequence",
    }
    given = {"lengths": data["lengths"], "original_lengths": data["original_lengths"], "sequences": data["sequences"]}
    return [_distribution(names[key], one) for key, one in given.items() if one is not None]


def _distribution(name: str, found: Quantiles) -> _Distribution:
    values = [found["min"], found["median"], found["mean"], found["p90"], found["p99"], found["max"]]
    return _Distribution(name, [wording.number(value) for value in values])


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(settings.items()))
