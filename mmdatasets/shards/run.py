"""A run that writes the shards of one split: its output checked and locked, what is missing, and its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from filelock import FileLock, Timeout

from mmdatasets.collate.materialise import Unsupported
from mmdatasets.disk import cannot_write
from mmdatasets.errors import MMDatasetsError
from mmdatasets.shards.counts import ShardCounts
from mmdatasets.shards.layout import Shard, ShardLayout, check_split, unfinished_files
from mmdatasets.shards.manifest import (
    Json,
    check_output,
    describe_plugin,
    manifest_path,
    run_digest,
    write_manifest,
)
from mmdatasets.shards.sources import OpenedSource, Source, open_source_dataset
from mmdatasets.shards.writer import ShardWriter, read_stamp
from mmdatasets.transforms.row_log import remove_unfinished

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.plugins.base import BasePlugin

BATCH_SIZE = 256
ROWS_PER_SHARD = 10_000
ROWS_PER_SHARD_WITH_MEDIA = 1_000
"""A photograph is some 300 KB: Parquet files of a few hundred megabytes are what the Hub recommends."""
ROWS_PER_SHARD_MATERIALISED = 100
"""A million pixels are 3 MB."""


@dataclass(frozen=True)
class RunSettings:
    """What the files of an output depend on, beside the source and the plugin.

    Attributes:
        split: Which split of the source; the files are named after it.
        rows_per_shard: Rows of the source in each file; 10,000 when `None`, 1,000 with `embed_media`, 100 with
            `materialise`.
        batch_size: Rows that are mapped at once.
        embed_media: Whether files hold the bytes of media.
        preference: Whether the rows are preference data, for `plugin.preference_transform`.
        materialise: Whether media are stored as `plugin.materialise` makes them.
        quality: Of lossy ones; see there.
        unsupported: What becomes of items that cannot be materialised; see there.
    """

    split: str = "train"
    rows_per_shard: int | None = None
    batch_size: int = BATCH_SIZE
    embed_media: bool = False
    preference: bool = False
    materialise: bool = False
    quality: int | None = None
    unsupported: Unsupported = "error"

    def __post_init__(self) -> None:
        check_split(self.split)
        for name in ("rows_per_shard", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.quality is not None and not self.materialise:
            raise ValueError("quality is of what is stored with materialise=True")
        if self.unsupported not in get_args(Unsupported):
            raise ValueError(f"unsupported must be 'error' or 'keep', got {self.unsupported!r}")
        if self.unsupported != "error" and not self.materialise:
            raise ValueError("unsupported is of what cannot be stored with materialise=True")

    @property
    def identity(self) -> dict[str, Json]:
        """What the manifest says of them. What came later is there where it is not as it always was."""
        fields: dict[str, Json] = {**dataclasses.asdict(self), "rows_per_shard": self.shard_size}
        if self.unsupported == "error":
            del fields["unsupported"]
        return fields

    @property
    def shard_size(self) -> int:
        """Rows of the source in each file."""
        if self.rows_per_shard is not None:
            return self.rows_per_shard
        if self.materialise:
            return ROWS_PER_SHARD_MATERIALISED
        return ROWS_PER_SHARD_WITH_MEDIA if self.embed_media else ROWS_PER_SHARD


@dataclass(frozen=True)
class ShardRun:
    """What is to be written, and by what.

    Attributes:
        dataset: The source.
        writer: Writes a shard; it can be sent to other processes and machines that see the output.
        layout: All shards.
        finished: Those that earlier runs finished, and what they hold.
        identity: What the output is made of and by.
    """

    dataset: Dataset
    writer: ShardWriter
    layout: ShardLayout
    finished: Mapping[int, ShardCounts]
    identity: Mapping[str, Json]

    @property
    def missing(self) -> list[Shard]:
        """The shards that are to be written, in order."""
        return [shard for shard in self.layout.shards() if shard.index not in self.finished]

    def complete(self) -> dict[Shard, ShardCounts]:
        """Reads what all shards say of themselves, and writes the manifest.

        Returns:
            Every shard with its counts, in order.

        Raises:
            MMDatasetsError: If a shard is not finished.
        """
        output, found = self.writer.output, find_finished(self.writer, self.layout)
        shards = list(self.layout.shards())
        missing = [shard for shard in shards if shard.index not in found]
        if missing:
            raise MMDatasetsError(
                f"{len(missing)} of {len(shards)} shards are not finished, the first is {missing[0].name}",
                source=str(output),
            )
        counts = {shard: found[shard.index] for shard in shards}
        try:
            write_manifest(output, self.layout.split, self.identity, counts)
        except OSError as error:
            raise _cannot_write(output, error) from error
        return counts


def find_finished(writer: ShardWriter, layout: ShardLayout) -> dict[int, ShardCounts]:
    """The shards of a run that lie in its output, by number. Reads the footer of each."""
    found = {shard.index: read_stamp(writer.output / shard.name, writer.run, shard) for shard in layout.shards()}
    return {index: counts for index, counts in found.items() if counts is not None}


@contextmanager
def open_run(
    source: Source,
    plugin: BasePlugin,
    output: str | os.PathLike[str],
    settings: RunSettings,
    *,
    config: str | None = None,
    overwrite: bool = False,
) -> Iterator[ShardRun]:
    """Prepares an output for a run, and keeps other runs out of it meanwhile.

    Args:
        source: What to read; see `mmdatasets.preprocess`.
        plugin: Maps the rows.
        output: The folder; it is made.
        settings: What else the files depend on.
        config: Which configuration of a dataset on the Hub.
        overwrite: Whether shards of another source or other settings are replaced.

    Yields:
        The run: write `missing` with `writer`, then call `complete`.

    Raises:
        MMDatasetsError: If the source cannot be read, the output cannot be written, is in use, or is of another source
            or settings.
    """
    written = [folder for folder in (output, plugin.row_log, plugin.metadata_cache) if folder is not None]
    opened = open_source_dataset(source, settings.split, config, written=written)
    plugin = _with_media_root(plugin, opened)
    identity: dict[str, Json] = {
        "source": dict(opened.identity),
        "plugin": describe_plugin(plugin),
        "output": settings.identity,
    }
    layout = ShardLayout(settings.split, len(opened.dataset), settings.shard_size)
    source_features = opened.dataset.features
    writer = ShardWriter(
        plugin,
        Path(output).absolute(),
        run_digest(identity),
        plugin.preference_features(source_features) if settings.preference else plugin.features(source_features),
        settings.batch_size,
        settings.embed_media,
        settings.preference,
        settings.materialise,
        settings.quality,
        settings.unsupported,
    )
    with _locked(writer.output, settings.split):
        try:
            check_output(writer.output, settings.split, identity, overwrite=overwrite)
            _clean(writer, settings.split)
        except OSError as error:
            raise _cannot_write(writer.output, error) from error
        try:
            yield ShardRun(opened.dataset, writer, layout, find_finished(writer, layout), identity)
        finally:
            _clean(writer, settings.split)


def _with_media_root(plugin: BasePlugin, opened: OpenedSource) -> BasePlugin:
    """The plugin with an absolute folder for relative paths: its own, else that of the data, where there is one."""
    root = plugin.options.media_root or opened.media_root
    if root is None or (root == plugin.options.media_root and Path(root).is_absolute()):
        return plugin
    return dataclasses.replace(
        plugin, options=dataclasses.replace(plugin.options, media_root=str(Path(root).absolute()))
    )


@contextmanager
def _locked(output: Path, split: str) -> Iterator[None]:
    """Keeps other processes out of a split. The operating system ends it with the process, however that ends."""
    path = output / f".preprocess-{split}.lock"
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise MMDatasetsError(
            f"another run is writing the split {split!r} of this output; wait for its end, or choose another output",
            source=str(output),
        ) from error
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is given up: whoever waits for this file notices
        lock.release()


def _clean(writer: ShardWriter, split: str) -> None:
    """Removes what was not finished; no one else writes while the lock is held."""
    manifest = manifest_path(writer.output, split)
    for path in [*unfinished_files(writer.output, split), manifest.with_name(f".{manifest.name}.part")]:
        path.unlink(missing_ok=True)
    if writer.plugin.row_log is not None:
        remove_unfinished(writer.plugin.row_log, writer.plugin.settings_digest)


def _cannot_write(output: Path, error: OSError) -> MMDatasetsError:
    return cannot_write("the output", error, output, "the same command then goes on")
