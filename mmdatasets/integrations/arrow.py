"""The transform for engines that pass Arrow batches: Ray Data, Spark, Daft."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Features

    from mmdatasets.plugins.base import BasePlugin


class ArrowTransform:
    """Maps Arrow tables with a plugin's transform. It can be pickled; each process makes the processor once.

    Args:
        plugin: Its transform maps the rows.
        source: The `datasets` features of the source's rows, for engines that drop the metadata of schemas, and with
            it what tells an image from a struct; those of the tables when `None`.
        preference: Whether the rows are preference data.
    """

    def __init__(self, plugin: BasePlugin, source: Features | None = None, *, preference: bool = False) -> None:
        self._plugin, self._source, self._preference = plugin, source, preference

    @property
    def schema(self) -> pa.Schema:
        """The schema of the result, with the `datasets` features in its metadata.

        It needs the source's features.
        """
        plugin = self._plugin
        made = plugin.preference_features(self._source) if self._preference else plugin.features(self._source)
        return made.arrow_schema

    def __call__(self, table: pa.Table) -> pa.Table:
        """Maps one batch; one without rows too, which engines pass to learn the schema.

        Args:
            table: Rows of the source.

        Returns:
            The mapped rows.

        Raises:
            MMDatasetsError: If a row cannot be used. Names the row of the batch.
        """
        if self._source is not None:
            wanted = self._source.arrow_schema
            table = table.select(wanted.names).cast(wanted)
        transform = self._plugin.preference_transform if self._preference else self._plugin.transform
        return cast("pa.Table", transform(table))

    def map_in_arrow(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Maps a stream of batches, as `DataFrame.mapInArrow` of Spark passes them.

        Args:
            batches: Rows of the source.

        Yields:
            The mapped rows.
        """
        for batch in batches:
            yield from self(pa.Table.from_batches([batch])).combine_chunks().to_batches()
