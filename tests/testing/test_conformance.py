"""Every family under every scenario, and the table of what comes out."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from mmdatasets.plugins import registry
from mmdatasets.plugins.registry import register_mm_plugin
from mmdatasets.testing.conformance import SCENARIOS, Cell, Scenario, Subject, run_cell, run_conformance
from mmdatasets.testing.family_table import family_table
from mmdatasets.testing.processors import missing_packages
from mmdatasets.testing.subjects import generic_subjects, named_subjects, standin_subjects
from tests.testing.third_party import NumberingOracle, NumberingPlugin, SeedStylePlugin, subject_of

REPOSITORY = Path(__file__).parents[2]
GENERIC = generic_subjects()
SUBJECTS = {subject.name: subject for subject in (*named_subjects(), *standin_subjects())}
# What is run always; the rest is slow. The text-only model has no images, some take seconds for a batch.
QUICK = "rows of different counts"
OTHER_QUICK = {"base": "text only", "gemma4": "one image", "internvl": "one image", "mllama": "one image"}


@pytest.fixture(scope="session")
def cell_of(media_folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """Runs a cell, once a session: what several test processes found lies in the folder of their session."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    folder = folder / "cells"
    folder.mkdir(exist_ok=True)

    def run(subject: Subject, scenario: Scenario) -> Cell:
        path = folder / f"{subject.name}-{scenario.name.replace(' ', '_')}.pickle"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(run_cell(subject, scenario, media_folder)))
            part.replace(path)
        found: Cell = pickle.loads(path.read_bytes())
        return found

    return run


def cells() -> list[object]:
    found = []
    for name in SUBJECTS:
        for scenario in SCENARIOS:
            marks = [] if scenario.name == OTHER_QUICK.get(name, QUICK) else [pytest.mark.slow]
            found.append(pytest.param(name, scenario, id=f"{name}-{scenario.name.replace(' ', '_')}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "scenario"), cells())
def test_cell(name: str, scenario: Scenario, cell_of) -> None:
    cell = cell_of(SUBJECTS[name], scenario)
    if cell.not_run:
        pytest.skip(cell.not_run)
    assert not cell.refused, cell.refused
    assert not cell.failures, "\n".join(f"{check}: {wrong}" for check, wrong in cell.failures.items())


@pytest.mark.slow
@pytest.mark.parametrize("subject", GENERIC, ids=lambda subject: subject.name)
def test_the_generic_plugin_is_exact_or_refuses(subject: Subject, cell_of) -> None:
    for scenario in SCENARIOS:
        cell = cell_of(subject, scenario)
        assert not cell.failures, (scenario.name, cell.failures)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_packages()), reason=f"the table needs every family, these lack: {missing_packages()}")
def test_the_table_in_the_docs_is_what_the_suite_finds(cell_of) -> None:
    assert (REPOSITORY / "docs" / "families.md").read_text("utf-8") == family_table(cell_of)


def test_every_name_of_the_registry_is_a_subject() -> None:
    families = {subject.plugin.family for subject in (*SUBJECTS.values(), *GENERIC[:1])}
    assert families == set(registry._FAMILIES)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_suite_knows_every_modality_that_a_family_takes(name: str) -> None:
    assert set(SUBJECTS[name].modalities) == set(SUBJECTS[name].plugin.modalities)


def test_a_scenario_without_the_modality_says_so() -> None:
    outcomes = {cell.scenario: cell for cell in run_conformance(SUBJECTS["qwen2_audio"])}
    assert set(outcomes) == {scenario.name for scenario in SCENARIOS}
    others = {scenario.name for scenario in SCENARIOS if scenario.modalities - {"audio"}}
    assert {name for name, cell in outcomes.items() if cell.not_run} == others
    assert outcomes["one image"].not_run == "the processor takes no image"
    assert outcomes["image then video"].not_run == "the processor takes no image and no video"
    assert all(cell.passed for cell in outcomes.values())


# ------------------------------------------------------------------------------------------------- third parties


def test_a_plugin_that_overrides_process_messages_alone_passes() -> None:
    """As plugins of other trainers do, written for the seed's signature and with its fields."""
    register_mm_plugin("seed_style", SeedStylePlugin)
    images = [one for one in SCENARIOS if one.modalities <= {"image"} and not one.too_large_for_models]
    for cell in run_conformance(subject_of("seed_style"), images):
        assert cell.passed, cell


def test_messages_of_its_own_need_an_oracle_of_its_own() -> None:
    register_mm_plugin("numbering", NumberingPlugin)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name == QUICK]
    [wrong] = run_conformance(subject_of("numbering"), scenarios)
    assert {"token ids", "tensors"} <= set(wrong.failures)
    [right] = run_conformance(subject_of("numbering", NumberingOracle()), scenarios)
    assert right.passed, right
