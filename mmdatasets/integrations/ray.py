"""Mapping on a Ray cluster: the same transform and the same shards as on one machine, on as many as there are."""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING

from mmdatasets.collate.materialise import Unsupported
from mmdatasets.errors import MissingExtraError, MMDatasetsError
from mmdatasets.integrations.arrow import ArrowTransform
from mmdatasets.shards.layout import Shard
from mmdatasets.shards.preprocess import write_missing
from mmdatasets.shards.report import PreprocessReport
from mmdatasets.shards.run import BATCH_SIZE, RunSettings, open_run
from mmdatasets.shards.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features
    from ray.data import Dataset as RayDataset

    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.shards.writer import ShardWriter

_CPUS_PER_ACTOR = 2
"""Ray's own work takes cores, too: as many actors as there are cores wait for one another for ever."""

_MOST_BLOCKS = 10_000


def map_batches(
    dataset: RayDataset,
    plugin: BasePlugin,
    *,
    source: Features | None = None,
    preference: bool = False,
    batch_size: int = BATCH_SIZE,
    num_actors: int | None = None,
) -> RayDataset:
    """Maps a Ray dataset with `plugin.transform`, as one step of a pipeline.

    Args:
        dataset: The chats.
        plugin: Its transform maps the rows.
        source: The `datasets` features of the rows, where Ray's reader does not keep them: it drops metadata of
            schemas, and with it what tells an image from a struct.
        preference: Whether the rows are preference data.
        batch_size: Rows that are mapped at once.
        num_actors: How many processes map; one for every two cores of the cluster when `None`.

    Returns:
        The mapped rows.

    Raises:
        MissingExtraError: If Ray is not installed.
    """
    ray = _import_ray()
    mapped: RayDataset = dataset.map_batches(
        ArrowTransform,
        fn_constructor_args=(plugin, source),
        fn_constructor_kwargs={"preference": preference},
        batch_format="pyarrow",
        batch_size=batch_size,
        num_cpus=1,
        compute=_pool(ray, num_actors),
        zero_copy_batch=True,
    )
    return mapped


class _ShardActor:
    """Writes the shards that it is given. What is wrong is a result: Ray would wrap an error, and lose what it was."""

    def __init__(self, writer: ShardWriter, dataset: Dataset) -> None:
        self._writer, self._dataset = writer, dataset

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        said = []
        for row in batch.to_pylist():
            try:
                self._writer.write(self._dataset, Shard(**row))
            except MMDatasetsError as error:
                said.append(pickle.dumps(error))
        return pa.table({"error": pa.array(said, pa.binary())})


def preprocess_on_ray(
    source: Source,
    plugin: BasePlugin,
    output: str | os.PathLike[str],
    *,
    split: str = "train",
    config: str | None = None,
    rows_per_shard: int | None = None,
    batch_size: int = BATCH_SIZE,
    embed_media: bool = False,
    preference: bool = False,
    materialise: bool = False,
    quality: int | None = None,
    unsupported: Unsupported = "error",
    on_error: ErrorPolicy | None = None,
    row_log: str | None = None,
    overwrite: bool = False,
    num_actors: int | None = None,
) -> PreprocessReport:
    """What `mmdatasets.preprocess` does, by the actors of a Ray cluster: the same files, byte for byte.

    Every machine must see the source's files (the cache of `datasets`, for files that it reads), the media and the
    output under the same paths: a shared file system. A run that was interrupted, here or there, goes on by the same
    call.

    Args:
        source: See `mmdatasets.preprocess`.
        plugin: Likewise.
        output: Likewise.
        split: Likewise.
        config: Likewise.
        rows_per_shard: Likewise.
        batch_size: Likewise.
        embed_media: Likewise.
        preference: Likewise.
        materialise: Likewise.
        quality: Likewise.
        unsupported: Likewise.
        on_error: Likewise.
        row_log: Likewise.
        overwrite: Likewise.
        num_actors: How many processes map and write; one for every two cores of the cluster when `None`.

    Returns:
        What became of the rows.

    Raises:
        MissingExtraError: If Ray is not installed.
        MMDatasetsError: As `mmdatasets.preprocess` does.
    """
    ray = _import_ray()
    plugin = plugin.with_policy(on_error, row_log)
    settings = RunSettings(
        split, rows_per_shard, batch_size, embed_media, preference, materialise, quality, unsupported
    )
    with open_run(source, plugin, output, settings, config=config, overwrite=overwrite) as run:
        return write_missing(run, lambda missing: _write_shards(ray, run.writer, run.dataset, missing, num_actors))


def _import_ray() -> ModuleType:
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError.for_package("ray", "ray", "mapping on a cluster") from error
    return importlib.import_module("ray")


def _pool(ray: ModuleType, num_actors: int | None) -> object:
    """How many actors Ray Data is to keep."""
    if num_actors is None:
        if not ray.is_initialized():
            ray.init()
        num_actors = max(1, int(ray.cluster_resources().get("CPU", 1)) // _CPUS_PER_ACTOR)
    return ray.data.ActorPoolStrategy(size=num_actors)


def _write_shards(
    ray: ModuleType, writer: ShardWriter, dataset: Dataset, shards: Sequence[Shard], num_actors: int | None
) -> None:
    if not shards:
        return
    pool = _pool(ray, num_actors)
    items = ray.data.from_items(
        [asdict(shard) for shard in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS)
    )
    written = items.map_batches(
        _ShardActor,
        fn_constructor_args=(writer, dataset),
        batch_format="pyarrow",
        batch_size=1,
        num_cpus=1,
        compute=pool,
    )
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        for error in batch["error"].to_pylist():
            raise pickle.loads(error)
