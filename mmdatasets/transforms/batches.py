"""Reads the batches that `map` and its relatives pass, and writes what they take back, with explicit types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, ClassLabel, Features, Image, LargeList, List, Value, Video
from datasets.formatting.formatting import LazyBatch

from mmdatasets.chat.values import is_empty
from mmdatasets.errors import ConversationError, MediaReferenceError
from mmdatasets.features import (
    AUDIOS,
    FIT,
    IMAGES,
    INPUT_IDS,
    LABELS,
    LENGTH,
    MADE_BY,
    MEDIA_COLUMNS,
    MEDIA_INFO,
    VIDEO_FRAMES,
    VIDEOS,
    media_columns,
    token_features,
    tokenised_features,
)
from mmdatasets.media.audio_store import audio_to_stored
from mmdatasets.media.source import is_pil_image, resolve_stored, to_stored
from mmdatasets.media.video_store import video_to_stored
from mmdatasets.planning.sound import SOUND

if TYPE_CHECKING:
    from mmdatasets.transforms.tokenise import TokenisedRow
    from mmdatasets.types import MediaItem, MediaReference, Modality, StoredMedia

Batch: TypeAlias = "LazyBatch | Mapping[str, Sequence[object]] | pa.Table"
"""A batch of rows as columns: `Dataset.map` passes a `LazyBatch`, `IterableDataset.map` a dict, Ray a table."""

OwnColumns: TypeAlias = "dict[str, Sequence[object]]"
"""Columns that a transform makes, by name: arrays of token ids, and what Arrow takes as it is."""

StoredColumns: TypeAlias = "dict[str, list[StoredMedia | None] | list[list[StoredMedia]]]"
"""A row's media references by output column; see `mmdatasets.features.media_columns`."""


def row_names(indices: Sequence[int] | None, num_rows: int) -> Sequence[int | str]:
    """What errors call the rows of a batch: their numbers in the dataset, where `map` passes these."""
    return indices or [f"{index} of the batch" for index in range(num_rows)]


@dataclass(frozen=True, slots=True)
class BatchReader:
    """Uniform access to a batch. Media columns are read as stored, never decoded."""

    batch: Batch

    def __post_init__(self) -> None:
        if not isinstance(self.batch, Mapping | LazyBatch | pa.Table):
            raise ConversationError(
                f"expected a batch of columns, got {type(self.batch).__name__}: call map with batched=True, without "
                "input_columns, on a dataset whose format is None, 'arrow', 'numpy' or 'torch'"
            )

    @property
    def table(self) -> pa.Table | None:
        """The batch as an Arrow table, where it is one."""
        if isinstance(self.batch, LazyBatch):
            return self.batch.pa_table
        return self.batch if isinstance(self.batch, pa.Table) else None

    @property
    def column_names(self) -> list[str]:
        """Names of the batch's columns."""
        return list(self.batch.keys()) if isinstance(self.batch, Mapping | LazyBatch) else self.batch.column_names

    @property
    def boolean_columns(self) -> set[str]:
        """Names of the columns that hold booleans."""
        table = self.table
        if table is not None:
            return {field.name for field in table.schema if pa.types.is_boolean(field.type)}
        firsts = {name: next((item for item in self.batch[name] if item is not None), None) for name in self.batch}
        return {name for name, first in firsts.items() if isinstance(first, bool | np.bool_)}

    def rows(self, columns: Sequence[str]) -> list[dict[str, object]]:
        """Some columns' values of each row, as Python objects. Images inside of them stay references."""
        values = [self._objects(column) for column in columns]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def row(self, position: int) -> dict[str, object]:
        """All that a row holds, as it is stored."""
        table = self.table
        if table is not None:
            values: dict[str, object] = table.slice(position, 1).to_pylist()[0]
            return values
        return {name: self.batch[name][position] for name in self.column_names}

    def select(self, rows: Sequence[int]) -> BatchReader:
        """The batch with some of its rows."""
        table = self.table
        if table is not None:
            return BatchReader(table.take(pa.array(rows, pa.int64())))
        return BatchReader({name: [self.batch[name][row] for row in rows] for name in self.column_names})

    def _objects(self, column: str) -> list[object]:
        table = self.table
        if table is None:
            return [value.tolist() if isinstance(value, np.ndarray) else value for value in self.batch[column]]
        feature = _undecoded(Features.from_arrow_schema(table.schema)[column])
        values: list[object] = Features({column: feature}).decode_column(table[column].to_pylist(), column)
        return values

    def media(self, column: str, modality: Modality, num_rows: int) -> list[list[MediaReference] | None]:
        """The references in a media column: one list for each row, `None` without column or value.

        A row's one video may stand there as a list of images, its frames.
        """
        if column not in self.column_names:
            return [None] * num_rows
        table = self.table
        values = self.batch[column] if table is None else table[column].to_pylist()
        if modality == "video":
            typed = table is not None and _is_list_of_images(Features.from_arrow_schema(table.schema)[column])
            values = [[value] if not is_empty(value) and (typed or _are_images(value)) else value for value in values]
        return [_references_in(value) for value in values]


def _references_in(value: object) -> list[MediaReference] | None:
    """The references of a row; `None` where it has nothing but nulls and empty paths, as where it has null."""
    given = as_references(value)
    found = list(filter(_is_something, given))
    return None if value is None or (given and not found) else found


def _is_something(reference: object) -> bool:
    """Whether a value refers to media: how a row says that it has none differs from dataset to dataset."""
    if isinstance(reference, Mapping) and set(reference) <= {"path", "bytes"}:
        return not all(map(is_empty, reference.values()))
    return reference is not None and not (isinstance(reference, str | bytes) and not reference)


def _is_list_of_images(feature: object) -> bool:
    return isinstance(feature, List | LargeList) and isinstance(feature.feature, Image)


def _are_images(value: object) -> bool:
    return isinstance(value, list) and all(map(is_pil_image, value))


def _undecoded(feature: object) -> object:
    """A feature whose images, videos and audio, however deep inside, are read as stored."""
    if isinstance(feature, Image | Audio | Video):
        return replace(feature, decode=False)
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_undecoded(feature.feature))
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    return [_undecoded(inner) for inner in feature] if isinstance(feature, list) else feature


def as_references(value: object) -> list[MediaReference]:
    """A row's media as a list: a row with one item may hold it without a list around it."""
    if value is None:
        return []
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]


def store_media(
    media: Sequence[MediaItem], columns: Mapping[Modality, str], media_root: str | None = None
) -> StoredColumns:
    """A row's media references as Arrow keeps them.

    Args:
        media: The items.
        columns: The column of each modality, for errors.
        media_root: Directory that relative paths are resolved against. It becomes part of them, as `datasets` resolves
            relative paths against the working directory when it embeds files.

    Returns:
        Output column -> the row's value; see `mmdatasets.features.media_columns`.

    Raises:
        MediaReferenceError: If one has no supported form. Names column and index.
    """
    images: list[StoredMedia | None] = []
    videos: list[StoredMedia | None] = []
    frames: list[list[StoredMedia]] = []
    audios: list[StoredMedia | None] = []
    seen = {"image": images, "video": videos, "audio": audios}
    for item in media:
        try:
            if item.modality == "image":
                images.append(resolve_stored(to_stored(item.reference), media_root))
            elif item.modality == "audio":
                audios.append(resolve_stored(audio_to_stored(item.reference), media_root))
            else:
                video, own = video_to_stored(item.reference)
                # Null: `datasets` cannot embed a struct without path and bytes.
                videos.append(None if own else resolve_stored(video, media_root))
                frames.append([resolve_stored(frame, media_root) for frame in own])
        except MediaReferenceError as error:
            raise error.at(column=columns[item.modality], index=len(seen[item.modality])) from error.__cause__
    return {IMAGES: images, VIDEOS: videos, VIDEO_FRAMES: frames, AUDIOS: audios}


def select_media(stored: StoredColumns, kept: Mapping[Modality, Sequence[int]]) -> StoredColumns:
    """A row's media columns with some of its references.

    Args:
        stored: The columns, from `store_media`.
        kept: Positions of the references that stay, of every modality.
    """
    modality_of_column = {column: modality for modality, column in MEDIA_COLUMNS.items()} | {VIDEO_FRAMES: "video"}
    return {
        name: [values[position] for position in kept[modality_of_column[name]]]  # type: ignore[misc]
        for name, values in stored.items()
    }


def stored_items(row: Mapping[str, object]) -> dict[Modality, list[MediaReference]]:
    """The references of a mapped row, by modality.

    Raises:
        MediaReferenceError: If the frames of a video are missing.
    """
    found = {modality: as_references(row.get(column)) for modality, column in MEDIA_COLUMNS.items()}
    frames = as_references(row.get(VIDEO_FRAMES))
    # A dataset whose videos are decoded has decoder objects, which keep what they were made of.
    found["video"] = [getattr(video, "_hf_encoded", video) for video in found["video"]]
    for index, video in enumerate(found["video"]):
        own = as_references(frames[index]) if index < len(frames) else []
        if own:
            # A file beside frames is the sound of a video that was materialised.
            found["video"][index] = own if video is None else {"frames": own, SOUND: video}
        elif video is None:
            raise MediaReferenceError(
                f"the video is a list of frames, which the row has not: keep the column {VIDEO_FRAMES!r}",
                column=VIDEOS,
                index=index,
            )
    return found


def write_batch(
    reader: BatchReader,
    rows: Sequence[TokenisedRow],
    media: Sequence[StoredColumns],
    sources: Mapping[Modality, str],
    replaced: Sequence[str],
    made_by: ClassLabel,
    *,
    may_lack_rows: bool = False,
) -> pa.Table | dict[str, list[object]]:
    """The result of a transform for supervised fine-tuning, see `write_columns`.

    Args:
        reader: The batch.
        rows: What became of its rows.
        media: The media columns of each row, from `store_media`.
        sources: The column that each modality came from; one for each that the model takes.
        replaced: Columns of the batch that the transform consumes.
        made_by: The type of the column that says what made the rows.
        may_lack_rows: Whether the transform may leave out rows.
    """
    columns = row_columns(rows)
    return write_columns(
        reader, columns, media, sources, replaced, token_features(), made_by, may_lack_rows=may_lack_rows
    )


def row_columns(rows: Sequence[TokenisedRow]) -> OwnColumns:
    """The transform's own columns of rows for supervised fine-tuning, media left out."""
    return {
        INPUT_IDS: [row.input_ids for row in rows],
        LABELS: [row.labels for row in rows],
        LENGTH: [len(row.input_ids) for row in rows],
        MEDIA_INFO: [row.media for row in rows],
    }


def write_columns(
    reader: BatchReader,
    own: OwnColumns,
    media: Sequence[StoredColumns],
    sources: Mapping[Modality, str],
    replaced: Sequence[str],
    tokens: Mapping[str, List | Value],
    made_by: ClassLabel,
    *,
    may_lack_rows: bool = False,
) -> pa.Table | dict[str, list[object]]:
    """A transform's result in the form that the batch came in.

    Arrow in, Arrow out: a table with explicit types, the columns that are not replaced passed through. `Dataset.map`
    takes it as it is, so that no type is inferred from whichever rows come first. Plain dict in, plain dict out, with
    the transform's own columns alone; where rows may be missing, with those that pass through, as these lack them too.

    Args:
        reader: The batch.
        own: The transform's own columns, media left out.
        media: The media columns of each row, from `store_media`.
        sources: The column that each modality came from; one for each that the result has.
        replaced: Columns of the batch that the transform consumes.
        tokens: The types of the columns of token ids.
        made_by: The type of the column that says what made the rows.
        may_lack_rows: Whether the transform may leave out rows; those that fit rows into a length do.
    """
    own = {**own, MADE_BY: [0] * len(media)}
    table = reader.table
    media_names = list(media_columns(sources))
    if table is None:
        gone = {*replaced, *own, *media_names} if may_lack_rows or FIT in own else set(reader.column_names)
        return {
            **{name: list(reader.batch[name]) for name in reader.column_names if name not in gone},
            **{name: list(map(_as_list, values)) for name, values in own.items() if name != MADE_BY},
            **{name: [row[name] for row in media] for name in media_names},
            MADE_BY: list(own[MADE_BY]),
        }
    source = Features.from_arrow_schema(table.schema)
    features = tokenised_features(sources, source, replaced, tokens, fitted=FIT in own, made_by=made_by)
    schema = features.arrow_schema
    arrays = {name: _as_array(values, schema.field(name).type) for name, values in own.items()}
    origins = {MEDIA_COLUMNS[modality]: column for modality, column in sources.items()}
    for name in media_names:
        values, kind = [row[name] for row in media], schema.field(name).type
        unchanged = _unchanged(table, origins[name], values, kind) if name in origins else None  # type: ignore[arg-type]
        arrays[name] = unchanged if unchanged is not None else pa.array(values, kind)
    columns = [arrays[name] if name in arrays else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def _as_list(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_array(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    return _list_array(arrays) if arrays else pa.array(values, kind)


def _unchanged(
    table: pa.Table, column: str, stored: Sequence[list[StoredMedia | None]], kind: pa.DataType
) -> pa.ChunkedArray | None:
    """The source's media column where it is what would be written: embedded files are megabytes to copy."""
    if column not in table.column_names or table.schema.field(column).type != kind:
        return None
    values = table[column]
    if values.null_count or any(
        given is None
        or wanted is None
        or given["path"] != wanted["path"]
        or (given["bytes"] is None) != (wanted["bytes"] is None)
        for row, mine in zip(_without_bytes(values), stored, strict=True)
        for given, wanted in zip_longest(row, mine, fillvalue={"path": "", "bytes": None})
    ):
        return None
    return values


def _without_bytes(values: pa.ChunkedArray) -> list[list[StoredMedia | None]]:
    """The references of an image column with whether they have bytes, but not the bytes."""
    flat = values.combine_chunks().flatten()
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    paths, present = flat.field("path").to_pylist(), flat.field("bytes").is_valid().to_pylist()
    items: Iterator[StoredMedia | None] = (
        {"path": path, "bytes": b"" if has_bytes else None} for path, has_bytes in zip(paths, present, strict=True)
    )
    return [list(islice(items, length)) for length in pc.list_value_length(values).to_pylist()]


def _list_array(values: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.int32()))
