"""The table of families, made from the outcomes of the conformance suite.

``python -m mmdatasets.testing.family_table docs/families.md`` writes it anew.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from mmdatasets.testing.checks import CHECKS
from mmdatasets.testing.checks.batches import NOT_ONE_VIDEO
from mmdatasets.testing.checks.materialised import ELSEWHERE, modalities_that_stay
from mmdatasets.testing.checks.packing import ONE_ROW
from mmdatasets.testing.conformance import SCENARIOS, Cell, Scenario, Subject, run_cell
from mmdatasets.testing.oracles import OWN_CALL
from mmdatasets.testing.processors import missing_packages
from mmdatasets.testing.processors.more import NOT_TRIED
from mmdatasets.testing.subjects import generic_subjects, named_subjects, standin_subjects
from mmdatasets.types import MODALITIES, Modality

_LONGEST = 240
"""Characters of a remark."""

_NO_MODEL = "no tiny model"
PACKING = "packing"
"""The check that decides on the column of packing."""
MATERIALISED = "materialised"
"""The check that decides on the column of what can be materialised."""
_UNREMARKABLE = {
    "no images",
    "no media",
    "no row is padded",
    "the batch has media",
    _NO_MODEL,
    ELSEWHERE,
    ONE_ROW,
    NOT_ONE_VIDEO,
    *(one.too_large_for_models for one in SCENARIOS),
}

_HEAD = """# Families

What the conformance suite (`mmdatasets.testing.conformance`) found, written by
`python -m mmdatasets.testing.family_table docs/families.md` and compared by a test.

*Exact* means that every check below holds in every scenario that the processor has the modalities for, or that the
remark says which does not, and why. *Packs* names what `plugin.packed_collator` takes as `attention` for the family's
models: each was trained on packed rows, and had the loss and gradients of the rows one by one. (`flex` has no backward
pass on CPUs; its masks equal those of `block_mask`.) *Materialises* names the media that `plugin.materialise` stores
so that batches stay the same, bit for bit; other media stays as it is. Where nothing is said, the oracle is the
processor's own call.
Scenarios: {scenarios}.
The models are not run on the huge image, for the memory that attention over its patches takes. Of videos and audio,
processors get the frames and samples that plain decoders find, and are told where these come from.

| check | what holds |
| --- | --- |
{checks}
"""
_COLUMNS = (
    "| family | plugin | processor class | modalities | exact | packs | materialises | remarks |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)
_REMOTE = (
    "The processors of these families, and their models, are code on the model hub. The plugins are written against "
    "the\npublished interface and compared with stand-ins that follow it (`mmdatasets.testing.standins`): what is "
    "exact here is\nexact *of the stand-in*.\n\n"
)
_NOT_TRIED_HEAD = (
    "Folders of transformers' models whose processors have media tokens, and are not above.\n\n"
    "| folder | reason |\n| --- | --- |\n"
)

CellOf: TypeAlias = Callable[[Subject, Scenario], Cell]
"""Gives the outcome of a cell: runs it, or knows it already."""


def family_table(cell_of: CellOf) -> str:
    """Makes the page.

    Args:
        cell_of: Gives the outcome of a cell.
    """
    checks = "".join(f"| {name} | {_first_sentence(check.__doc__)} |\n" for name, check in CHECKS.items())
    page = [_HEAD.format(scenarios=", ".join(scenario.name for scenario in SCENARIOS), checks=checks)]
    page += ["## Families with a plugin\n\n", _COLUMNS]
    page += [_row(subject, cell_of) for subject in named_subjects()]
    page += ["\n## Remote code\n\n", _REMOTE, _COLUMNS]
    page += [_row(subject, cell_of, ", of a stand-in") for subject in standin_subjects()]
    page += ["\n## Through the generic plugin, with no code about them\n\n", _COLUMNS]
    page += [_row(subject, cell_of) for subject in generic_subjects()]
    page += ["\n## Not tried\n\n", _NOT_TRIED_HEAD]
    missing: dict[str, str] = {name: f"needs {', '.join(packages)}" for name, packages in missing_packages().items()}
    page += [f"| {folder} | {reason} |\n" for folder, reason in sorted({**NOT_TRIED, **missing}.items())]
    return "".join(page)


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).replace("|", "\\|")


def _row(subject: Subject, cell_of: CellOf, qualified: str = "") -> str:
    cells = [cell_of(subject, scenario) for scenario in SCENARIOS]
    run = [cell for cell in cells if not cell.not_run]
    bad = [cell for cell in run if not cell.passed]
    exact = "yes" if not bad else "no" if len(bad) == len(run) else "in part"
    modalities = subject.modalities
    if not any(scenario.modalities & set(modalities) for scenario in SCENARIOS):
        qualified = " (text)"
    text = "; ".join(" ".join(remark.split()).replace("|", "\\|") for remark in _remarks(cells))
    kind = type(subject.processor).__name__
    media = ", ".join(modalities) or "none"
    packs, stored = _packs(subject, cells), ", ".join(_materialises(cells)) or "none"
    return (
        f"| {subject.name} | `{subject.plugin.family}` | {kind} | {media} | {exact}{qualified} | {packs} | {stored} "
        f"| {text} |\n"
    )


def _materialises(cells: Sequence[Cell]) -> list[Modality]:
    """The modalities whose originals are not needed for the same batches."""
    modalities = {scenario.name: scenario.modalities for scenario in SCENARIOS}
    held = [
        cell
        for cell in cells
        if not (cell.not_run or cell.refused) and MATERIALISED not in {**cell.failures, **cell.skipped}
    ]
    return [
        one
        for one in MODALITIES
        if any(one in modalities[cell.scenario] for cell in held)
        and not any(one in modalities_that_stay(cell.remarks.get(MATERIALISED, "")) for cell in cells)
    ]


def _packs(subject: Subject, cells: Sequence[Cell]) -> str:
    """What `attention` may be for packed rows, where the check held wherever it applied."""
    outcomes = [cell for cell in cells if not cell.not_run and not cell.refused]
    held = [cell for cell in outcomes if PACKING not in cell.skipped and PACKING not in cell.failures]
    if not held:
        return "no"
    if any(PACKING in cell.failures for cell in outcomes):
        return "in part"
    return ", ".join(subject.plugin.isolation(subject.model.config).ways)


def _remarks(cells: Sequence[Cell]) -> list[str]:
    said: dict[str, list[str]] = {}
    for cell in cells:
        for text in _said_of(cell):
            said.setdefault(text, []).append(cell.scenario)
    if any(_NO_MODEL in cell.skipped.values() for cell in cells):
        said[_NO_MODEL] = []
    run = [cell.scenario for cell in cells if not cell.not_run]
    return [f"{_shortened(text)} ({_named(where, run)})" if where else text for text, where in said.items()]


def _said_of(cell: Cell) -> Iterator[str]:
    if cell.not_run:
        yield f"not run: {cell.not_run}"
    if cell.refused:
        yield f"refused: {cell.refused}"
    for check, wrong in cell.failures.items():
        yield f"{check}: {wrong}"
    for verb, found in (("not checked", cell.skipped), ("in part", cell.remarks)):
        for reason in dict.fromkeys(found.values()):
            if reason not in _UNREMARKABLE:
                checks = ", ".join(check for check, why in found.items() if why == reason)
                yield f"{verb} ({checks}): {reason}" if verb == "not checked" else f"{checks}: {reason}"
    if cell.oracle and cell.oracle != OWN_CALL:
        yield f"compared with {cell.oracle}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _named(scenarios: Sequence[str], run: Sequence[str]) -> str:
    """Scenarios in few words."""
    if list(scenarios) == list(run):
        return "all"
    for modality in MODALITIES:
        if list(scenarios) == [one.name for one in SCENARIOS if modality in one.modalities]:
            return f"all with {modality}"
    return ", ".join(scenarios)


def main(path: str) -> None:
    """Runs the suite on every family and writes the page to `path`."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="mmdatasets-conformance-") as folder:
        page = family_table(lambda subject, scenario: run_cell(subject, scenario, Path(folder)))
    Path(path).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
