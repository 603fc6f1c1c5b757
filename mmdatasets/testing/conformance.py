"""The conformance suite: what every plugin must do, checked against the processor and the model it is made for.

Whoever registers a plugin runs it on their own processor and model::

    from mmdatasets.testing.conformance import Subject, run_conformance

    for cell in run_conformance(Subject("my_family", build_processor, build_model)):
        assert cell.passed, cell

A cell is one subject under one scenario. It runs every check, and says which oracle the token ids and tensors were
compared with: the processor's own call where the processor can do the scenario, else the one that is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmdatasets.errors import MMDatasetsError, ProcessorMismatchError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.registry import auto_plugin
from mmdatasets.testing.media import write_image
from mmdatasets.testing.scenarios import SCENARIOS, Row, Scenario
from mmdatasets.types import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.feature_extraction_utils import BatchFeature

    from mmdatasets.testing.oracles import Oracle

__all__ = ["SCENARIOS", "Cell", "NotApplicable", "Run", "Scenario", "Subject", "run_conformance"]


class NotApplicable(Exception):  # noqa: N818 - not an error
    """A check does not apply to a cell; says why."""


@dataclass(frozen=True)
class Subject:
    """What is put through the suite.

    Attributes:
        name: For reports.
        build_processor: Makes the processor.
        build_model: Makes a tiny model that takes the processor's output, or `None`: the checks that need one then say
            so.
        build_plugin: Makes the plugin; `auto_plugin` by default.
        oracle: What ids and tensors are compared with; the processor's own call by default.
        exceptions: (check, scenario) -> why it cannot hold, where that is the fault of the processor or model. A
            check that holds all the same fails, so that no exception outlives its reason.
    """

    name: str
    build_processor: Callable[[], ProcessorMixin]
    build_model: Callable[[ProcessorMixin], PreTrainedModel] | None = None
    build_plugin: Callable[[ProcessorMixin], BasePlugin] = auto_plugin
    oracle: Oracle | None = None
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @cached_property
    def processor(self) -> ProcessorMixin:
        """The processor, made once."""
        return self.build_processor()

    @cached_property
    def plugin(self) -> BasePlugin:
        """The plugin, made once."""
        return self.build_plugin(self.processor)

    def takes(self, modality: Modality) -> bool:
        """Whether the processor has a modality; true where the plugin refuses it, so that each cell says why."""
        try:
            return modality in self.plugin.engine.runner.placeholders
        except ProcessorMismatchError:
            return True

    @cached_property
    def model(self) -> PreTrainedModel:
        """The tiny model, made once.

        Raises:
            NotApplicable: If the subject has none.
        """
        if self.build_model is None:
            raise NotApplicable("no tiny model")
        return self.build_model(self.processor)


@dataclass
class Run:
    """One subject under one scenario: the rows as files, what the plugin makes of them, and the oracle's word.

    Attributes:
        subject: The subject.
        scenario: The scenario.
        folder: Where the images lie.
    """

    subject: Subject
    scenario: Scenario
    folder: Path

    @cached_property
    def paths(self) -> list[list[str]]:
        """The image files of each row."""
        return [[self._image(width, height) for width, height in row.images] for row in self.scenario.rows]

    def _image(self, width: int, height: int) -> str:
        path = self.folder / f"{width}x{height}.jpg"
        if not path.exists():
            write_image(path, width, height, seed=width)
        return str(path)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The scenario's rows."""
        return self.scenario.rows

    @property
    def plugin(self) -> BasePlugin:
        """The subject's plugin."""
        return self.subject.plugin

    def transform(self, plugin: BasePlugin, paths: Sequence[Sequence[str]]) -> list[dict[str, object]]:
        """The rows as a plugin's transform makes them."""
        columns = plugin.transform({"messages": [row.messages for row in self.rows], "images": list(paths)})
        return [{name: column[index] for name, column in columns.items()} for index in range(len(self.rows))]

    @cached_property
    def mapped(self) -> list[dict[str, object]]:
        """The rows as the subject's transform makes them."""
        return self.transform(self.plugin, self.paths)

    @cached_property
    def batch(self) -> BatchFeature:
        """The rows as the subject's collator makes a batch of them."""
        return self.plugin.collator()(self.mapped)


@dataclass(frozen=True)
class Cell:
    """The outcome of one subject under one scenario.

    Attributes:
        subject: The subject's name.
        scenario: The scenario's name.
        oracle: What ids and tensors were compared with.
        refused: Why the plugin refuses the rows, if it does.
        failures: Check -> what was wrong.
        skipped: Check -> why it does not apply.
    """

    subject: str
    scenario: str
    oracle: str = ""
    refused: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the rows were taken and no check failed."""
        return not self.failures and not self.refused


def run_cell(subject: Subject, scenario: Scenario, folder: Path) -> Cell:
    """Runs every check on one cell. `folder` keeps the images, which cells may share."""
    from mmdatasets.testing.checks import CHECKS
    from mmdatasets.testing.oracles import processor_oracle

    run = Run(subject, scenario, folder)
    failures: dict[str, str] = {}
    skipped: dict[str, str] = {}
    try:
        _ = run.batch
    except MMDatasetsError as error:
        return Cell(subject.name, scenario.name, refused=error.message)
    oracle = (subject.oracle or processor_oracle)(run)
    for name, check in CHECKS.items():
        known = subject.exceptions.get((name, scenario.name))
        try:
            check(run, oracle)
        except NotApplicable as reason:
            skipped[name] = str(reason)
        except Exception as error:
            if known is None:
                failures[name] = f"{type(error).__name__}: {error}"
            else:
                skipped[name] = known
        else:
            if known is not None:
                failures[name] = f"holds, though it is excepted: {known}"
    return Cell(subject.name, scenario.name, oracle.name, "", failures, skipped)


def run_conformance(subject: Subject, scenarios: Sequence[Scenario] = SCENARIOS) -> Iterator[Cell]:
    """Runs the suite on a subject, one cell for each scenario that its processor has the modality for.

    Args:
        subject: What to check.
        scenarios: Which scenarios to run.

    Yields:
        The outcome of each cell.
    """
    with TemporaryDirectory(prefix="mmdatasets-conformance-") as folder:
        for scenario in scenarios:
            if subject.takes("image") or not scenario.has_images:
                yield run_cell(subject, scenario, Path(folder))
