"""The report on a dataset that a plugin makes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from mmdatasets.report.columns import check_readable, is_mapped
from mmdatasets.report.data import ReportSettings, gather
from mmdatasets.report.report import Report
from mmdatasets.transforms.row_log import read_row_log

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from mmdatasets.plugins.base import BasePlugin

_SIDES = {"chosen", "rejected"}
TIMED = 16
"""Items that are decoded for their time."""


class Reporting:
    """The part of a plugin that looks at a dataset as a whole."""

    def report(
        self,
        dataset: Dataset,
        *,
        row_log: str | os.PathLike[str] | None = None,
        source: Dataset | int | None = None,
        max_lengths: Sequence[int] | None = None,
        time_media: int = TIMED,
        num_proc: int | None = None,
        title: str = "Dataset",
    ) -> Report:
        """Says what a dataset holds: lengths, padding, packing, media, what is largest, and what failed.

        Of a mapped dataset, the columns of numbers are read, and files are asked for their size. One that is not
        mapped is mapped first, to a temporary place, without `max_length` and leaving out the rows that cannot be
        used, which the report lists by reason. Only the `time_media` largest items are decoded.

        Memory is some 24 bytes for each row and 100 for each media item.

        Args:
            dataset: Chats, preference data (`chosen` and `rejected`), or what `transform`, `preference_transform` or
                `packer` made.
            row_log: Folder with what was written of rows that were dropped or changed by whatever settings; what this
                plugin wrote to its own `row_log` when `None`.
            source: What was mapped, or how many rows it had: rows that are missing without a word are counted then.
            max_lengths: Lengths to compare; chosen by the rows' lengths when `None`.
            time_media: How many of the items with most pixels or samples are decoded, to see how long it takes.
            num_proc: Processes for the map of a dataset that is not mapped.
            title: What the report calls the dataset.

        Returns:
            The report: a page, JSON and a summary.

        Raises:
            MMDatasetsError: If the dataset streams, or its rows cannot be read.
            ValueError: If a length is not positive, or `time_media` negative.
        """
        if any(limit < 1 for limit in max_lengths or ()) or time_media < 0:
            raise ValueError("max_lengths must be positive and time_media not negative")
        plugin = cast("BasePlugin", self)
        rows = check_readable(dataset)
        settings = ReportSettings(
            title=title,
            options=plugin.options,
            sampling_rate=None if plugin.processor is None else plugin.engine.runner.sampling_rate,
            max_lengths=max_lengths,
            time_media=time_media,
        )
        if is_mapped(rows):
            missing = None if source is None else (source if isinstance(source, int) else len(source)) - len(rows)
            return Report(gather(rows, settings, _log_of(plugin, row_log), missing))
        with TemporaryDirectory(prefix="mmdatasets-report-") as folder:
            mapped = _map(plugin, rows, Path(folder), num_proc)
            log = read_row_log(Path(folder) / "log")
            return Report(gather(mapped, settings, log, len(rows) - len(mapped)))


def _log_of(plugin: BasePlugin, row_log: str | os.PathLike[str] | None) -> pa.Table | None:
    if row_log is not None:
        return read_row_log(row_log)
    return None if plugin.row_log is None else read_row_log(plugin.row_log, plugin.settings_digest)


def _map(plugin: BasePlugin, dataset: Dataset, folder: Path, num_proc: int | None) -> Dataset:
    """Maps a dataset to a folder, whole rows and all that can be used, with a log of the others."""
    tolerant = dataclasses.replace(
        plugin,
        max_length=None,
        on_overflow="error",
        on_error="quarantine",
        row_log=str(folder / "log"),
        max_bad_rows=None,
        max_consecutive=None,
    )
    is_preference = set(dataset.column_names) >= _SIDES
    transform = tolerant.preference_transform if is_preference else tolerant.transform
    features = (tolerant.preference_features if is_preference else tolerant.features)(dataset.features)
    return dataset.map(
        transform,
        batched=True,
        with_indices=True,
        features=features,
        num_proc=num_proc,
        cache_file_name=str(folder / "mapped.arrow"),
        desc="Mapping for the report",
    )
