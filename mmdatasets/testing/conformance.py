"""The conformance suite: what every plugin must do, checked against the processor and the model it is made for.

Whoever registers a plugin runs it on their own processor and model::

    from mmdatasets.testing.conformance import Subject, run_conformance

    for cell in run_conformance(Subject("my_family", build_processor, build_model)):
        assert cell.passed, cell

A cell is one subject under one scenario. It runs every check, and says which oracle the token ids and tensors were
compared with: the processor's own call where the processor can do the scenario, else the one that is named.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias

from mmdatasets.errors import MMDatasetsError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.registry import auto_plugin
from mmdatasets.testing.inputs import model_inputs
from mmdatasets.testing.scenarios import SCENARIOS, Chat, Row, Scenario, with_media
from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, ProcessorMixin
    from transformers.feature_extraction_utils import BatchFeature
    from transformers.utils import ModelOutput

    from mmdatasets.testing.oracles import Oracle
    from mmdatasets.types import MediaReference

    References: TypeAlias = "list[MediaReference]"
    Processor: TypeAlias = "ProcessorMixin | PreTrainedTokenizerBase"

__all__ = ["SCENARIOS", "Cell", "NotApplicable", "Row", "Run", "Scenario", "Subject", "run_cell", "run_conformance"]

_PARTS: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
"""Attributes under which processors keep what processes a modality."""

_COLUMNS: Mapping[Modality, str] = {"image": "images_column", "video": "videos_column", "audio": "audios_column"}
"""Fields of a plugin that name its media columns."""


class NotApplicable(Exception):  # noqa: N818 - not an error
    """A check does not apply to a cell; says why."""


@dataclass(frozen=True)
class Subject:
    """What is put through the suite.

    Attributes:
        name: For reports.
        build_processor: Makes the processor; a tokenizer for a text-only model.
        build_model: Makes a tiny model that takes the processor's output, or `None`: the checks that need one then say
            so.
        build_plugin: Makes the plugin; `auto_plugin` by default.
        oracle: What ids and tensors are compared with; the processor's own `apply_chat_template` when `None`.
        exceptions: (check, scenario) -> why it cannot hold, where that is the fault of the processor or model. A
            check that holds all the same fails, so that no exception outlives its reason.
        dependent: For a batch whose logits depend on what a row is batched with, by the model's own fault: given the
            processor, the token ids `(length,)` of all rows and a row's index, says which of that row's tokens are
            affected. Their logits are not compared.
        dependent_reason: Why that is so.
    """

    name: str
    build_processor: Callable[[], Processor]
    build_model: Callable[[Processor], torch.nn.Module] | None = None
    build_plugin: Callable[[Processor], BasePlugin] = auto_plugin
    oracle: Oracle | None = None
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    dependent: Callable[[Processor, Sequence[torch.Tensor], int], torch.Tensor] | None = None
    dependent_reason: str = ""

    @cached_property
    def processor(self) -> Processor:
        """The processor, made once."""
        return self.build_processor()

    @cached_property
    def plugin(self) -> BasePlugin:
        """The plugin, made once."""
        return self.build_plugin(self.processor)

    @cached_property
    def unpickled(self) -> BasePlugin:
        """The plugin as another process gets it."""
        copy: BasePlugin = pickle.loads(pickle.dumps(self.plugin))
        return copy

    @cached_property
    def stages(self) -> BasePlugin:
        """The plugin without a processor, as a trainer makes it that hands the processor to each stage."""
        return replace(self.plugin, processor=None)

    @cached_property
    def short_stages(self) -> BasePlugin:
        """The same with `expand_mm_tokens=False`."""
        return replace(self.plugin, processor=None, expand_mm_tokens=False)

    @cached_property
    def model(self) -> torch.nn.Module:
        """The tiny model, made once.

        Raises:
            NotApplicable: If the subject has none.
        """
        if self.build_model is None:
            raise NotApplicable("no tiny model")
        return self.build_model(self.processor)

    @property
    def modalities(self) -> list[Modality]:
        """What the processor has a part for, or takes in another way, as its oracle says."""
        further = () if self.oracle is None else self.oracle.further
        return [
            one
            for one in MODALITIES
            if one in further or any(getattr(self.processor, part, None) for part in _PARTS[one])
        ]

    def lacks(self, scenario: Scenario) -> str:
        """Why a scenario is none for this subject: its processor does not take a modality. Else empty."""
        missing = [one for one in MODALITIES if one in scenario.modalities and one not in self.modalities]
        return f"the processor takes no {' and no '.join(missing)}" if missing else ""


@dataclass
class Run:
    """One subject under one scenario: the rows as files, what the plugin makes of them, and the model's word.

    Attributes:
        subject: The subject.
        scenario: The scenario.
        folder: Where the media files lie.
        oracle: What the processor makes of them.
        alone: Row -> `(length, vocabulary)` logits of the row by itself, filled as they are needed.
    """

    subject: Subject
    scenario: Scenario
    folder: Path
    oracle: Oracle
    alone: dict[int, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def files(self) -> list[list[str]]:
        """The media files of each row, in the order of the text."""
        return [[str(spec.write(self.folder)) for spec in row.media] for row in self.rows]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The scenario's rows."""
        return self.scenario.rows

    @property
    def plugin(self) -> BasePlugin:
        """The subject's plugin."""
        return self.subject.plugin

    @cached_property
    def chats(self) -> list[Chat]:
        """The rows in the form that processors take, the files in their parts."""
        rows = zip(self.rows, self.files, strict=True)
        return [with_media(row.messages, row.references(files)) for row, files in rows]

    def stage_media(self, index: int) -> tuple[References, References, References]:
        """A row's images, videos and audios, as the stages take them."""
        row = self.rows[index]
        references: References = row.references(self.files[index])  # type: ignore[assignment]
        images, videos, audios = (row.only(modality, references) for modality in MODALITIES)
        return images, videos, audios

    def transform(
        self, plugin: BasePlugin, files: Sequence[Sequence[str]] | None = None, chats: Sequence[Chat] | None = None
    ) -> list[dict[str, object]]:
        """The rows as a plugin's transform makes them.

        Args:
            plugin: The plugin.
            files: The media files of each row; the scenario's when `None`.
            chats: The turns of each row; the scenario's when `None`.
        """
        columns: dict[str, list[object]] = {"messages": list(chats or [row.messages for row in self.rows])}
        for modality in MODALITIES:
            if modality in self.scenario.modalities:
                named = getattr(plugin, _COLUMNS[modality])
                rows = zip(self.rows, files or self.files, strict=True)
                columns[named] = [row.only(modality, row.references(items)) for row, items in rows]
        made = plugin.transform(columns)
        return [{name: column[index] for name, column in made.items()} for index in range(len(self.rows))]

    @cached_property
    def mapped(self) -> list[dict[str, object]]:
        """The rows as the subject's transform makes them."""
        return self.transform(self.plugin)

    @cached_property
    def batch(self) -> BatchFeature:
        """The rows as the subject's collator makes a batch of them, padded where the processor pads."""
        return self.plugin.collator(padding_side=self.oracle.padding_side)(self.mapped)

    @property
    def other_side(self) -> Literal["left", "right"]:
        """The side on which `batch` is not padded."""
        usual = self.oracle.padding_side or self.plugin.engine.tokenizer.padding_side
        return "right" if usual == "left" else "left"

    @cached_property
    def output(self) -> ModelOutput:
        """What the tiny model makes of the batch, with the graph for a backward pass."""
        return self.model(**model_inputs(self.model, self.batch))

    @property
    def model(self) -> torch.nn.Module:
        """The subject's tiny model.

        Raises:
            NotApplicable: If there is none, or the scenario is too large for one.
        """
        if self.scenario.too_large_for_models:
            raise NotApplicable(self.scenario.too_large_for_models)
        return self.subject.model


@dataclass(frozen=True)
class Cell:
    """The outcome of one subject under one scenario.

    Attributes:
        subject: The subject's name.
        scenario: The scenario's name.
        oracle: What ids and tensors were compared with.
        not_run: Why there is nothing to check, where the processor lacks the modality.
        refused: Why the plugin refuses the rows, if it does.
        failures: Check -> what was wrong.
        skipped: Check -> why it does not apply.
        remarks: Check -> what a check that holds left out, or compared with instead.
    """

    subject: str
    scenario: str
    oracle: str = ""
    not_run: str = ""
    refused: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the rows were taken and no check failed."""
        return not self.failures and not self.refused


def run_cell(subject: Subject, scenario: Scenario, folder: Path) -> Cell:
    """Runs every check on one cell.

    Args:
        subject: The subject.
        scenario: The scenario.
        folder: Keeps the media files, which cells may share.
    """
    from mmdatasets.testing.checks import CHECKS
    from mmdatasets.testing.oracles import Expected, ProcessorOracle

    if reason := subject.lacks(scenario):
        return Cell(subject.name, scenario.name, not_run=reason)
    run = Run(subject, scenario, folder, subject.oracle or ProcessorOracle())
    try:
        _ = run.batch
    except MMDatasetsError as error:
        return Cell(subject.name, scenario.name, refused=error.message)
    except Exception as error:  # the plugin's own code, whatever it raises
        return Cell(subject.name, scenario.name, failures={"batch": f"{type(error).__name__}: {error}"})
    expected = Expected(run)
    try:
        cell = Cell(subject.name, scenario.name, expected.name)
    except Exception as error:  # what is no refusal: a package that the processor lacks, say
        return Cell(subject.name, scenario.name, failures={"oracle": f"{type(error).__name__}: {error}"})
    for name, check in CHECKS.items():
        known = subject.exceptions.get((name, scenario.name))
        try:
            remark = check(run, expected)
        except NotApplicable as reason:
            cell.skipped[name] = str(reason)
        except Exception as error:
            if known is None:
                cell.failures[name] = f"{type(error).__name__}: {error}"
            else:
                cell.skipped[name] = known
            continue
        else:
            if remark:
                cell.remarks[name] = remark
        if known is not None:
            cell.failures[name] = f"does not fail, though it is excepted: {known}"
    return cell


def run_conformance(subject: Subject, scenarios: Sequence[Scenario] = SCENARIOS) -> Iterator[Cell]:
    """Runs the suite on a subject.

    Args:
        subject: What to check.
        scenarios: Which scenarios to run.

    Yields:
        The outcome of each cell; of those whose modality the processor does not have, why they were not run.
    """
    with TemporaryDirectory(prefix="mmdatasets-conformance-") as folder:
        for scenario in scenarios:
            yield run_cell(subject, scenario, Path(folder))
