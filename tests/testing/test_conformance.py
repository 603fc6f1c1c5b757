"""Every family under every scenario, and proof that the suite notices what it is there to notice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mmdatasets.plugins.generic import StandardPlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.plugins.registry import list_mm_plugins
from mmdatasets.testing.conformance import SCENARIOS, Cell, Scenario, Subject, run_cell
from mmdatasets.testing.family_table import applicable, family_table
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor, missing_packages
from mmdatasets.testing.subjects import generic_subjects, named_subjects

REPOSITORY = Path(__file__).parents[2]
GENERIC = generic_subjects()
SUBJECTS = {subject.name: subject for subject in named_subjects()}
QUICK = {"rows of different counts"}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="session")
def cell_of(image_folder: Path):
    """Runs a cell, once a session."""
    known: dict[tuple[str, str], Cell] = {}

    def run(subject: Subject, scenario: Scenario) -> Cell:
        key = subject.name, scenario.name
        if key not in known:
            known[key] = run_cell(subject, scenario, image_folder)
        return known[key]

    return run


def cells():
    for name in SUBJECTS:
        for scenario in SCENARIOS:
            marks = [] if scenario.name in QUICK else [pytest.mark.slow]
            yield pytest.param(name, scenario, id=f"{name}-{scenario.name.replace(' ', '_')}", marks=marks)


@pytest.mark.parametrize(("name", "scenario"), cells())
def test_cell(name: str, scenario: Scenario, cell_of) -> None:
    subject = SUBJECTS[name]
    if scenario not in applicable(subject):
        pytest.skip(f"{name} takes no images")
    cell = cell_of(subject, scenario)
    assert not cell.refused, cell.refused
    assert not cell.failures, "\n".join(f"{check}: {wrong}" for check, wrong in cell.failures.items())


@pytest.mark.slow
@pytest.mark.parametrize("subject", GENERIC, ids=lambda subject: subject.name)
def test_the_generic_plugin_is_exact_or_refuses(subject: Subject, cell_of) -> None:
    for scenario in applicable(subject):
        cell = cell_of(subject, scenario)
        assert not cell.failures, (scenario.name, cell.failures)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_packages()), reason=f"the table needs every family, these lack: {missing_packages()}")
def test_the_table_in_the_docs_is_what_the_suite_finds(cell_of) -> None:
    assert (REPOSITORY / "docs" / "families.md").read_text("utf-8") == family_table(cell_of)


# ------------------------------------------------------------------------------- what the suite is there to notice


def failing(subject: Subject, scenario_name: str, folder: Path) -> set[str]:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == scenario_name)
    return set(run_cell(subject, scenario, folder).failures)


@dataclass(eq=False)
class MiscountingPlugin(Qwen2VLPlugin):
    def plan_image(self, runner, info):
        expansion = super().plan_image(runner, info)
        return replace(expansion, runs=(expansion.runs[0] + 1,))


@dataclass(eq=False)
class SwappingPlugin(StandardPlugin):
    """Gives the model the features in another order than the text has them."""

    def process_images(self, engine, images):
        outputs, expansions = super().process_images(engine, images)
        return outputs | {"pixel_values": outputs["pixel_values"].flip(0)}, expansions


@dataclass(eq=False)
class ForgetfulPlugin(Qwen2VLPlugin):
    def __getstate__(self):
        state = super().__getstate__()
        return state | {"config": state["config"] | {"allowed_special": "all", "chat_template": "{{ messages }}"}}


@dataclass(eq=False)
class LeavingOutPlugin(Qwen2VLPlugin):
    def sequence_inputs(self, engine, batch_ids):
        return {}


def subject_with(plugin_class: type, family: str = "qwen2_vl") -> Subject:
    return Subject(
        family,
        lambda: build_processor(family),
        lambda processor: build_model(family, processor),
        lambda processor: plugin_class(processor=processor),
    )


def test_a_wrong_count_is_noticed(image_folder: Path) -> None:
    cell = run_cell(subject_with(MiscountingPlugin), SCENARIOS[0], image_folder)
    assert "features" in cell.refused  # the collator's own check comes first


def test_swapped_features_are_noticed(image_folder: Path) -> None:
    found = failing(subject_with(SwappingPlugin, "llava"), "two images", image_folder)
    assert {"tensors", "logits"} <= found


def test_a_plugin_that_pickles_wrongly_is_noticed(image_folder: Path) -> None:
    assert "pickling" in failing(subject_with(ForgetfulPlugin), "one image", image_folder)


def test_a_missing_input_is_noticed(image_folder: Path) -> None:
    assert "tensors" in failing(subject_with(LeavingOutPlugin), "one image", image_folder)


def test_trained_media_and_lost_answers_are_noticed(image_folder: Path, monkeypatch) -> None:
    import mmdatasets.transforms.tokenise as module

    plain = module._expand_row

    def everything_trained(plugin, row, tokens):
        made = plain(plugin, row, tokens)
        return replace(made, labels=made.input_ids)

    def nothing_trained(plugin, row, tokens):
        made = plain(plugin, row, tokens)
        return replace(made, labels=made.labels * 0 - 100)

    for wrong in (everything_trained, nothing_trained):
        monkeypatch.setattr(module, "_expand_row", wrong)
        assert "labels" in failing(subject_with(Qwen2VLPlugin), "one image", image_folder)


def test_a_mask_that_lets_padding_through_is_noticed(image_folder: Path) -> None:
    subject = subject_with(Qwen2VLPlugin)
    plain = subject.plugin.finish_batch

    def unmasked(engine, batch):
        return plain(engine, batch) | {"attention_mask": torch.ones_like(batch["attention_mask"])}

    subject.plugin.finish_batch = unmasked
    assert {"tensors", "logits"} <= failing(subject, "rows of different counts", image_folder)


def test_an_exception_that_outlives_its_reason_is_noticed(image_folder: Path) -> None:
    subject = replace(SUBJECTS["llava"], exceptions={("logits", "one image"): "a reason that is gone"})
    assert "logits" in failing(subject, "one image", image_folder)


def test_every_registered_family_is_a_subject() -> None:
    covered = {type(subject.plugin).__name__ for subject in SUBJECTS.values()}
    families = {subject.plugin.family for subject in SUBJECTS.values()}
    assert {"MllamaPlugin", "PaliGemmaPlugin", "ErnieVLPlugin", "MiniCPMV46Plugin", "Qwen2VLPlugin"} <= covered
    assert families <= set(list_mm_plugins())
