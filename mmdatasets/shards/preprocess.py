"""`mmdatasets.preprocess`: a dataset becomes sharded Parquet, and goes on where it was interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmdatasets.collate.materialise import Unsupported
from mmdatasets.shards.counts import ShardCounts
from mmdatasets.shards.layout import Shard
from mmdatasets.shards.progress import show_progress
from mmdatasets.shards.report import PreprocessReport
from mmdatasets.shards.run import BATCH_SIZE, RunSettings, ShardRun, open_run
from mmdatasets.shards.sources import Source
from mmdatasets.shards.workers import write_shards

if TYPE_CHECKING:
    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin


def preprocess(
    source: Source,
    plugin: BasePlugin,
    output: str | os.PathLike[str],
    *,
    split: str = "train",
    config: str | None = None,
    rows_per_shard: int | None = None,
    batch_size: int = BATCH_SIZE,
    num_proc: int = 1,
    embed_media: bool = False,
    preference: bool = False,
    materialise: bool = False,
    quality: int | None = None,
    unsupported: Unsupported = "error",
    on_error: ErrorPolicy | None = None,
    row_log: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> PreprocessReport:
    """Maps a dataset with `plugin.transform` and writes it as sharded Parquet, for `datasets.load_dataset(output)`.

    Shards are `data/<split>-00000-of-00042.parquet` below the output. Each appears when it is complete and on the
    disk, and none is written twice: a run that was interrupted, in whatever way, is continued by the same call, also
    with another `num_proc`, and the result is the same files byte for byte. `preprocess-<split>.json` beside them
    says what they were made of and by, and what they hold. Several splits may share an output. Two things are not
    noticed: media files that change between two runs, and changes in the code of a plugin of your own.

    Args:
        source: A `datasets.Dataset`; a data file (json, jsonl, ndjson, parquet, csv, arrow); a folder of files of one
            such format, or of `save_to_disk`; or the name of a dataset on the Hub. Files are told by name, size and
            time of change.
        plugin: Maps the rows. Relative media paths start from its `options.media_root`; where it has none, from the
            folder of the data file, or the folder that is the source. (Those of a `Dataset` or of a dataset on the
            Hub then start from the working directory, as in `map`.)
        output: The folder to write; it is made.
        split: Which split of the source. In a folder, files belong to the split that their path names (`train`,
            `validation`, `test`, ...), those that name none to `train`. The split of a `Dataset` or file is this one.
        config: Which configuration of a dataset on the Hub.
        rows_per_shard: Rows of the source in each shard; 10,000 when `None`, 1,000 with `embed_media`, 100
            with `materialise`.
        batch_size: Rows that are mapped at once. What is in memory is one batch, and what makes up a row group of the
            file (some 16 MiB).
        num_proc: How many processes map and write; with 1, this one does.
        embed_media: Whether the files of media are put into the shards, which then can be moved to another machine.
            What the options refuse (http) is an error.
        preference: Whether the rows are preference data, for `plugin.preference_transform`.
        materialise: Whether the media are decoded, and stored as `plugin.materialise` makes them, in the place of
            originals. The shards then can be moved to another machine, too. Media that several rows have in common is
            stored once for each 256 MiB of a shard.
        quality: 1 to 100, for materialised media that lose something; see `plugin.materialise`.
        unsupported: What becomes of items that cannot be materialised: an `"error"`, or they stay as they are
            (`"keep"`).
        on_error: What becomes of rows that cannot be used: `"raise"`, `"skip"` or `"quarantine"`; the plugin's own
            choice when `None`.
        row_log: Folder for what is said of rows that are left out; the plugin's own when `None`.
        overwrite: Whether shards in the output that are of another source or of other settings are replaced. Those of
            the same are kept in any case.
        progress: Whether to show a progress bar, where standard error is a terminal.

    Returns:
        What became of the rows.

    Raises:
        MMDatasetsError: If the source or a row cannot be used (the row is named), the output cannot be written, is
            being written by another run, or is of another source or other settings (what differs is said).
        ValueError: If a number is not positive.
    """
    if isinstance(num_proc, bool) or not isinstance(num_proc, int) or num_proc < 1:
        raise ValueError(f"num_proc must be a positive integer, got {num_proc!r}")
    plugin = plugin.with_policy(on_error, row_log)
    settings = RunSettings(
        split, rows_per_shard, batch_size, embed_media, preference, materialise, quality, unsupported
    )
    with open_run(source, plugin, output, settings, config=config, overwrite=overwrite) as run:

        def write(missing: Sequence[Shard]) -> None:
            total = run.layout.num_rows
            with show_progress(total, total - count_source_rows(missing), split, enabled=progress) as on_rows:
                write_shards(run.writer, run.dataset, missing, num_proc, on_rows)

        return write_missing(run, write)


def write_missing(run: ShardRun, write: Callable[[Sequence[Shard]], object]) -> PreprocessReport:
    """Has the shards written that a run lacks, and completes its output.

    Args:
        run: The run.
        write: Writes shards, in whatever processes and on whatever machines.

    Returns:
        What became of the rows.

    Raises:
        MMDatasetsError: If a shard is not finished afterwards, or what `write` raises.
    """
    start = time.perf_counter()
    missing = run.missing
    write(missing)
    shards = run.complete()
    output = run.writer.output
    return PreprocessReport(
        output,
        run.layout.split,
        ShardCounts.total(shards.values()),
        len(shards),
        len(missing),
        sum((output / shard.name).stat().st_size for shard in shards),
        count_source_rows(missing),
        time.perf_counter() - start,
    )


def count_source_rows(shards: Sequence[Shard]) -> int:
    """How many rows of the source shards are made of."""
    return sum(shard.stop - shard.start for shard in shards)
