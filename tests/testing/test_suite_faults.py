"""Proof that the conformance suite notices what it is there to notice: plugins with one fault each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.generic import StandardPlugin
from mmdatasets.plugins.minicpmv import MiniCPMVPlugin
from mmdatasets.plugins.minicpmv4_6 import MiniCPMV46Plugin
from mmdatasets.plugins.moss_vl import MossVLPlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.testing.conformance import SCENARIOS, Cell, Subject, run_cell
from mmdatasets.testing.models import build_model
from mmdatasets.testing.oracles import ProcessorOracle
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.subjects import named_subjects, standin_subjects

KNOWN = {subject.name: subject for subject in (*named_subjects(), *standin_subjects())}
IGNORED = -100


def outcome(subject: Subject, scenario_name: str, folder: Path) -> Cell:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == scenario_name)
    return run_cell(subject, scenario, folder)


def failing(plugin_class: type[BasePlugin], scenario_name: str, folder: Path, family: str = "qwen2_vl") -> set[str]:
    """The checks that a plugin fails."""
    cell = outcome(subject_with(plugin_class, family), scenario_name, folder)
    assert not cell.refused, cell.refused
    return set(cell.failures)


def subject_with(plugin_class: type[BasePlugin], family: str = "qwen2_vl") -> Subject:
    known = KNOWN[family]
    return replace(known, build_plugin=lambda processor: plugin_class(processor=processor, family=family))


# ------------------------------------------------------------------------------------------------------- the rows


@dataclass(eq=False)
class MistakenPlugin(Qwen2VLPlugin):
    """Makes one mistake in rows that are right otherwise."""

    def transform(self, batch, indices=None):
        made = super().transform(batch, indices)
        for labels, ids, media in zip(made["labels"], made["input_ids"], made["media_info"], strict=True):
            self.mistake(batch, labels, ids, media)
        return made

    def mistake(self, batch, labels, ids, media):
        raise NotImplementedError


class TrainsEverything(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        labels[:] = ids


class TrainsNothing(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        labels[:] = [IGNORED] * len(labels)


class TrainsTheHeader(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        first = next(index for index, label in enumerate(labels) if label != IGNORED)
        labels[first - 1] = ids[first - 1]


class ForgetsTheEnd(MistakenPlugin):
    """Leaves out what follows the last turn's end, which no word of an answer is part of."""

    def mistake(self, batch, labels, ids, media):
        labels[-1] = IGNORED


class ForgetsTheEndOfTurn(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        end = self.engine.tokenizer.eos_token_id
        labels[:] = [IGNORED if label == end else label for label in labels]


class ShiftsTheSpan(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        media[0]["start"] += 2


class StripsStrings(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        if isinstance(batch["messages"][0][0]["content"], str):
            del ids[-3], labels[-3]


class SaysSomethingElse(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        ids[5] += 1


class Decodes(MistakenPlugin):
    def mistake(self, batch, labels, ids, media):
        for path in batch["images"][0]:
            try:
                PIL.Image.open(path).load()
            except OSError:
                ids[5] += 1


@pytest.mark.parametrize(
    ("plugin_class", "found"),
    [
        (TrainsEverything, {"labels"}),
        (TrainsNothing, {"labels", "model steps"}),
        (TrainsTheHeader, {"labels"}),
        (ForgetsTheEnd, {"labels"}),
        (ForgetsTheEndOfTurn, {"labels"}),
        (ShiftsTheSpan, {"features fit"}),
        (StripsStrings, {"string content"}),
        (SaysSomethingElse, {"token ids", "tensors", "pixel budget", "logits"}),
        (Decodes, {"header only"}),
    ],
)
def test_a_mistake_in_the_rows_is_noticed(plugin_class, found: set[str], media_folder: Path) -> None:
    assert failing(plugin_class, "one image", media_folder) == found


@dataclass(eq=False)
class ForgetfulPlugin(Qwen2VLPlugin):
    def __getstate__(self):
        state = super().__getstate__()
        return state | {"config": state["config"] | {"allowed_special": "all", "chat_template": "{{ messages }}"}}


@dataclass(eq=False)
class RestlessPlugin(Qwen2VLPlugin):
    """Changes with use."""

    def transform(self, batch, indices=None):
        self.messages_column = "messages"
        self.__dict__["uses"] = self.__dict__.get("uses", 0) + 1
        return super().transform(batch, indices)

    def __getstate__(self):
        return super().__getstate__() | {"uses": self.__dict__.get("uses", 0)}


def test_plugins_that_pickle_wrongly_are_noticed(media_folder: Path) -> None:
    for plugin_class in (ForgetfulPlugin, RestlessPlugin):
        assert failing(plugin_class, "one image", media_folder) == {"pickling"}


# ----------------------------------------------------------------------------------------------------- the stages


@dataclass(eq=False)
class InsertingPlugin(Qwen2VLPlugin):
    def process_token_ids(self, input_ids, labels, *rest):
        return [*input_ids, 7], labels


@dataclass(eq=False)
class AlwaysExpandingPlugin(Qwen2VLPlugin):
    def process_messages(self, *args):
        return BasePlugin.process_messages(replace(self, expand_mm_tokens=True), *args)


@dataclass(eq=False)
class ForgettingPlugin(Qwen2VLPlugin):
    """Leaves an input out where the stage is called by itself; the collator gets all."""

    def get_mm_inputs(self, *args):
        made = super().get_mm_inputs(*args)
        return made if self.processor is not None else {n: v for n, v in made.items() if n != "image_grid_thw"}


@dataclass(eq=False)
class RoundingPlugin(Qwen2VLPlugin):
    def get_mm_inputs(self, *args):
        made = super().get_mm_inputs(*args)
        return made if self.processor is not None else made | {"pixel_values": made["pixel_values"].half()}


@pytest.mark.parametrize(
    ("plugin_class", "found"),
    [
        (InsertingPlugin, {"stages"}),
        (AlwaysExpandingPlugin, {"unexpanded"}),
        (ForgettingPlugin, {"media inputs"}),
        (RoundingPlugin, {"media inputs"}),
    ],
)
def test_a_wrong_stage_is_noticed(plugin_class, found: set[str], media_folder: Path) -> None:
    assert failing(plugin_class, "two images", media_folder) == found


# ---------------------------------------------------------------------------------------------------- the batches


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
class LeavingOutPlugin(Qwen2VLPlugin):
    def sequence_inputs(self, engine, batch_ids):
        return {}


@dataclass(eq=False)
class UnmaskedPlugin(Qwen2VLPlugin):
    def finish_batch(self, engine, batch):
        return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}


@dataclass(eq=False)
class RightHandedPlugin(Qwen2VLPlugin):
    """Goes wrong where rows are padded on the left."""

    def finish_batch(self, engine, batch):
        left = (batch["attention_mask"][:, 0] == 0).any()
        return batch | ({"attention_mask": torch.ones_like(batch["attention_mask"])} if left else {})


@dataclass(eq=False)
class SpendthriftPlugin(Qwen2VLPlugin):
    """Has the processor size images and frames as it does by itself."""

    def processor_kwargs(self, processor, options):
        own = {"image": processor.image_processor, "video": processor.video_processor}
        return {modality: {"size": dict(one.size)} for modality, one in own.items()}


@dataclass(eq=False)
class AnyMediaPlugin(Qwen2VLPlugin):
    def collator(self, *, ensure_media=False, **options):
        return super().collator(**options)


def test_a_wrong_count_is_noticed(media_folder: Path) -> None:
    cell = outcome(subject_with(MiscountingPlugin), "one image", media_folder)
    assert "features" in cell.refused  # the collator's own check comes first
    assert not cell.passed


@dataclass(eq=False)
class RaisingPlugin(Qwen2VLPlugin):
    def finish_batch(self, engine, batch):
        raise KeyError("a fault of its own")


def test_what_a_plugin_raises_is_a_failure(media_folder: Path) -> None:
    cell = outcome(subject_with(RaisingPlugin), "text only", media_folder)
    assert cell.failures == {"batch": "KeyError: 'a fault of its own'"}


@dataclass(eq=False)
class StackingPlugin(MiniCPMV46Plugin):
    """Would repeat patches along the wrong dimension, for the two sides of preference data."""

    outputs_are_stacked = True


@pytest.mark.parametrize(
    ("plugin_class", "family", "scenario", "found"),
    [
        (SwappingPlugin, "llava", "two images", {"tensors", "media inputs", "pixel budget", "logits"}),
        (LeavingOutPlugin, "qwen2_vl", "text only", {"tensors", "media inputs", "ensured media"}),
        (UnmaskedPlugin, "qwen2_vl", "mixed batch", {"tensors", "pixel budget", "logits", "other padding", "packing"}),
        (RightHandedPlugin, "qwen2_vl", "rows of different counts", {"other padding"}),
        (SpendthriftPlugin, "qwen2_vl", "one image", {"pixel budget"}),
        (SpendthriftPlugin, "qwen2_vl", "one video", {"frame budget"}),
        (StackingPlugin, "minicpmv4_6", "rows of different counts", {"tensors"}),
        (AnyMediaPlugin, "qwen2_vl", "text only", {"ensured media"}),
    ],
)
def test_a_wrong_batch_is_noticed(plugin_class, family: str, scenario: str, found, media_folder: Path) -> None:
    assert failing(plugin_class, scenario, media_folder, family) == found


@dataclass(eq=False)
class NumberingFramesPlugin(MiniCPMVPlugin):
    def number_expansions(self, engine, modalities, expansions):
        return super().number_expansions(engine, ["image" for _ in modalities], expansions)


def test_numbers_of_frames_are_noticed(media_folder: Path) -> None:
    failures = failing(NumberingFramesPlugin, "two videos", media_folder, "minicpm_v")
    assert {"token ids", "tensors", "stages", "labels", "logits"} <= failures


@dataclass(eq=False)
class MisplacingPlugin(MiniCPMVPlugin):
    """Has the model look for the first slice's features one token too early."""

    def finish_inputs(self, engine, inputs, batch_ids):
        made = super().finish_inputs(engine, inputs, batch_ids)
        for bounds in made.get("image_bound", []):
            bounds[:1] -= 1
        return made


@dataclass(eq=False)
class SeeingEverythingPlugin(MossVLPlugin):
    def finish_batch(self, engine, batch):
        made = super().finish_batch(engine, batch)
        return made | {"cross_attention_mask": torch.zeros_like(made["cross_attention_mask"])}


@pytest.mark.parametrize(
    ("plugin_class", "family", "found"),
    [
        (MisplacingPlugin, "minicpm_v", {"tensors", "media inputs", "pixel budget", "logits", "other padding"}),
        (SeeingEverythingPlugin, "moss_vl", {"tensors", "pixel budget", "logits", "other padding"}),
    ],
)
def test_stand_ins_notice_too(plugin_class, family: str, found: set[str], media_folder: Path) -> None:
    assert failing(plugin_class, "mixed batch", media_folder, family) == found


# ------------------------------------------------------------------------------------------------ the suite itself


def test_exceptions_that_outlive_their_reason_are_noticed(media_folder: Path) -> None:
    for check in ("logits", "ensured media"):  # the one holds, the other does not apply
        subject = replace(KNOWN["llava"], exceptions={(check, "one image"): "a reason that is gone"})
        cell = outcome(subject, "one image", media_folder)
        assert set(cell.failures) == {check}
        assert "a reason that is gone" in cell.failures[check]


class BreakingOracle(ProcessorOracle):
    def encode_row(self, run, index):
        raise ImportError("a package")


def test_an_oracle_that_cannot_be_asked_is_a_failure(media_folder: Path) -> None:
    cell = outcome(replace(KNOWN["llava"], oracle=BreakingOracle()), "text only", media_folder)
    assert cell.failures == {"oracle": "ImportError: a package"}


def test_a_placeholder_that_the_plugin_does_not_find_is_no_reason_to_run_nothing(media_folder: Path) -> None:
    def without_token():
        processor = build_processor("llava")
        processor.image_token = None
        return processor

    subject = replace(KNOWN["llava"], build_processor=without_token)
    cell = outcome(subject, "one image", media_folder)
    assert not cell.not_run
    assert "takes no images" in cell.refused
    assert not cell.passed


def test_a_subject_without_model_says_so(media_folder: Path) -> None:
    cell = outcome(replace(KNOWN["llava"], build_model=None), "mixed batch", media_folder)
    assert cell.passed
    unchecked = {check for check, why in cell.skipped.items() if why == "no tiny model"}
    assert unchecked == {"model steps", "logits", "packing"}


def test_a_model_that_fails_on_the_processors_own_batch_is_no_fault_of_the_plugin(media_folder: Path) -> None:
    def refusing(processor):
        model = build_model("llava", processor)
        model.forward = _refuse
        return model

    cell = outcome(replace(KNOWN["llava"], build_model=refusing), "one image", media_folder)
    assert cell.passed
    assert "the model fails on the processor's own output: no" in cell.skipped["logits"]


def _refuse(*args, **kwargs):
    raise RuntimeError("no")
