"""The table of families, made from the outcomes of the conformance suite.

``python -m mmdatasets.testing.family_table docs/families.md`` writes it anew.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mmdatasets.plugins.registry import auto_plugin
from mmdatasets.testing.conformance import SCENARIOS, Cell, Scenario, Subject, run_cell
from mmdatasets.testing.oracles import OWN_CALL
from mmdatasets.testing.processors import get_spec, missing_packages
from mmdatasets.testing.processors.more import NOT_TRIED
from mmdatasets.testing.standins import build_standin, list_standins
from mmdatasets.testing.subjects import generic_subjects, named_subjects

_NO_MODEL = "no tiny model"
_UNREMARKABLE = {"no images", "the batch has media", _NO_MODEL, *(one.too_large_for_models for one in SCENARIOS)}

_HEAD = """# Families

What the conformance suite (`mmdatasets.testing.conformance`) found, written by
`python -m mmdatasets.testing.family_table docs/families.md` and compared by a test.

*Exact* means that, in every scenario, token ids and tensors are equal to those of the processor's own call, that the
features fit the tokens, that no pixel is decoded in the map stage, and that a tiny model gives a batch the same
logits, row by row, as each row alone. Scenarios: {scenarios}. The models are not run on
the huge image, for the memory that attention over its patches takes. Video and audio are not there yet; of the
modalities, images are checked.

"""
_COLUMNS = (
    "| family | plugin | processor class | modalities | exact | remarks |\n| --- | --- | --- | --- | --- | --- |\n"
)


def applicable(subject: Subject) -> list[Scenario]:
    """The scenarios that a subject's processor has the modalities for."""
    return [scenario for scenario in SCENARIOS if subject.takes("image") or not scenario.has_images]


def family_table(cell_of: Callable[[Subject, Scenario], Cell]) -> str:
    """Makes the page.

    Args:
        cell_of: Gives the outcome of a cell: runs it, or knows it already.
    """
    page = [_HEAD.format(scenarios=", ".join(scenario.name for scenario in SCENARIOS))]
    page += ["## Families with a plugin\n\n", _COLUMNS]
    page += [_row(subject, cell_of) for subject in named_subjects()]
    page += ["\n## Remote code\n\n", _REMOTE, _COLUMNS]
    page += [_standin_row(name) for name in list_standins()]
    page += ["\n## Through the generic plugin, with no code about them\n\n", _COLUMNS]
    page += [_row(subject, cell_of) for subject in generic_subjects()]
    page += ["\n## Not tried\n\n", _NOT_TRIED_HEAD]
    missing: dict[str, str] = {name: f"needs {', '.join(packages)}" for name, packages in missing_packages().items()}
    page += [f"| {folder} | {reason} |\n" for folder, reason in sorted({**NOT_TRIED, **missing}.items())]
    return "".join(page)


_REMOTE = (
    "The processors of these families are code on the model hub. The plugins are written against the published "
    "interface and\ncompared with stand-ins that follow it (`mmdatasets.testing.standins`), in "
    "`tests/plugins/test_remote_families.py`.\n\n"
)
_NOT_TRIED_HEAD = (
    "Folders of transformers' models whose processors have media tokens, and are not above.\n\n"
    "| folder | reason |\n| --- | --- |\n"
)


def _row(subject: Subject, cell_of: Callable[[Subject, Scenario], Cell]) -> str:
    spec = get_spec(subject.name)
    cells = [cell_of(subject, scenario) for scenario in applicable(subject)]
    bad = [cell for cell in cells if not cell.passed]
    exact = "yes" if not bad else "no" if len(bad) == len(cells) else "in part"
    if spec.modalities == ("audio",):
        exact = f"{exact} (text)"
    remarks = _remarks(cells)
    kind = type(subject.processor).__name__
    return _line(subject.name, subject.plugin.family, kind, ", ".join(spec.modalities), exact, remarks)


def _remarks(cells: Sequence[Cell]) -> list[str]:
    said: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refused:
            said.setdefault(f"refused: {cell.refused}", []).append(cell.scenario)
        for check, wrong in cell.failures.items():
            said.setdefault(f"{check}: {wrong}", []).append(cell.scenario)
        for reason in dict.fromkeys(cell.skipped.values()):
            if reason not in _UNREMARKABLE:
                checks = ", ".join(check for check, why in cell.skipped.items() if why == reason)
                said.setdefault(f"not checked ({checks}): {reason}", []).append(cell.scenario)
        if cell.oracle and cell.oracle != OWN_CALL:
            said.setdefault(f"compared with {cell.oracle}", []).append(cell.scenario)
    if any(_NO_MODEL in cell.skipped.values() for cell in cells):
        said[_NO_MODEL] = []
    named = {text: "all" if len(where) == len(cells) else ", ".join(where) for text, where in said.items()}
    return [f"{text[:160]} ({where})" if where else text for text, where in named.items()]


def _standin_row(name: str) -> str:
    processor = build_standin(name)
    return _line(name, auto_plugin(processor).family, type(processor).__name__, "image", "with a stand-in", [])


def _line(family: str, plugin: str, kind: str, modalities: str, exact: str, remarks: Iterable[str]) -> str:
    text = "; ".join(" ".join(remark.split()).replace("|", "\\|") for remark in remarks)
    return f"| {family} | `{plugin}` | {kind} | {modalities} | {exact} | {text} |\n"


def main(path: str) -> None:
    """Runs the suite on every family and writes the page to `path`."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="mmdatasets-conformance-") as folder:
        page = family_table(lambda subject, scenario: run_cell(subject, scenario, Path(folder)))
    Path(path).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
