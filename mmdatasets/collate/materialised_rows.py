"""Rows whose media was materialised: what is stored, in the columns of originals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import pyarrow as pa
from datasets import Features

from mmdatasets.errors import CollateError, MMDatasetsError
from mmdatasets.features import (
    AUDIOS,
    IMAGES,
    MEDIA_INFO,
    SEQUENCE_LENGTHS,
    VIDEO_FRAMES,
    VIDEOS,
    MediaRecord,
    media_columns,
    media_info_feature,
)
from mmdatasets.media.content_store import store_content

if TYPE_CHECKING:
    from mmdatasets.transforms.batches import BatchReader
    from mmdatasets.types import StoredMedia

MediaRow: TypeAlias = dict[str, object]
"""A row's media columns."""

_COLUMNS = (IMAGES, VIDEOS, VIDEO_FRAMES, AUDIOS, MEDIA_INFO)
_MOST_BYTES = 2**31 - 2**20
"""Arrow counts the bytes of a batch's column in 32 bits."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What is stored of an item.

    Attributes:
        frames: A file for each frame of a video, for an image one; none for audio.
        sound: The file of audio, or of a video's sound.
    """

    frames: tuple[bytes, ...] = ()
    sound: bytes | None = None


def materialised_features(features: Features) -> Features:
    """The types of a mapped dataset once its media is materialised.

    Args:
        features: Those of the mapped dataset.

    Raises:
        CollateError: If it was not mapped.
    """
    if MEDIA_INFO not in features:
        raise CollateError(
            f"no {MEDIA_INFO!r} among the columns ({', '.join(features)}): map the dataset with plugin.transform first"
        )
    own = {MEDIA_INFO: media_info_feature()}
    if VIDEOS in features:
        own[VIDEO_FRAMES] = media_columns(["video"])[VIDEO_FRAMES]
    return Features({**features, **own})


def media_rows(reader: BatchReader) -> list[MediaRow]:
    """The media columns of a batch, row by row, as references.

    Raises:
        CollateError: If its rows were not mapped, or are packed.
    """
    names = reader.column_names
    if MEDIA_INFO not in names:
        raise CollateError(
            f"no {MEDIA_INFO!r} among the columns ({', '.join(names)}): map the dataset with plugin.transform first"
        )
    if SEQUENCE_LENGTHS in names:
        raise CollateError("these are packed rows: materialise the mapped dataset, and pack that")
    return reader.rows([name for name in _COLUMNS if name in names])


def write_rows(
    reader: BatchReader, rows: Sequence[MediaRow], *, may_lack_rows: bool = False
) -> pa.Table | dict[str, list[object]]:
    """The batch with these media columns, in the form that it came in: Arrow with explicit types, or a plain dict.

    The dict has these columns alone; where rows may be missing, the others too, as these lack them likewise.
    """
    table = reader.table
    if table is None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        others = [name for name in reader.column_names if may_lack_rows and name not in _COLUMNS]
        return {
            **{name: list(reader.batch[name]) for name in others},
            **{name: [row[name] for row in rows] for name in names},
        }
    features = materialised_features(Features.from_arrow_schema(table.schema))
    schema = features.arrow_schema
    columns = [
        pa.array([row.get(name) for row in rows], schema.field(name).type) if name in _COLUMNS else table[name]
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def with_stored(
    row: Mapping[str, object], stored: Sequence[StoredItem | None], directory: str | None = None
) -> MediaRow:
    """A row's media columns with what is stored in the place of originals.

    Args:
        row: The row's media columns.
        stored: What is stored of each item of `media_info`; `None` where it stays as it is.
        directory: Where files are stored; in the row itself when `None`.

    Returns:
        New columns. Each chunk of audio becomes an item of its own.
    """
    records = [cast("MediaRecord", dict(record)) for record in cast("list[MediaRecord]", row[MEDIA_INFO] or [])]
    made: dict[str, list[object]] = {
        name: list(cast("list[object]", row.get(name) or [])) for name in _COLUMNS[:-1] if name in row
    }
    audios: list[object] = []
    for record, item in zip(records, stored, strict=True):
        record["materialised"] = item is not None or bool(record.get("materialised"))
        if item is not None and item.sound is not None:
            record["start_s"], record["end_s"] = 0.0, None
        if record["modality"] == "audio":
            audios.append(made[AUDIOS][record["item"]] if item is None else _file(item.sound, directory))
            record["item"] = len(audios) - 1
        elif item is not None:
            _put(made, record, item, directory)
    if audios:
        made[AUDIOS] = audios
    return {**made, MEDIA_INFO: records}


def _put(made: dict[str, list[object]], record: MediaRecord, item: StoredItem, directory: str | None) -> None:
    index = record["item"]
    if record["modality"] == "image":
        made[IMAGES][index] = _file(item.frames[0], directory)
        return
    made[VIDEOS][index] = _file(item.sound, directory)
    frames = made.setdefault(VIDEO_FRAMES, [])
    frames += [[] for _ in range(index + 1 - len(frames))]
    frames[index] = [_file(frame, directory) for frame in item.frames]


def _file(content: bytes | None, directory: str | None) -> StoredMedia | None:
    return None if content is None else store_content(content, directory)


def num_bytes(row: MediaRow) -> int:
    """The bytes of a row's largest media column."""
    images, audios = (_sum(row.get(name)) for name in (IMAGES, AUDIOS))
    frames = sum(map(_sum, cast("list[object]", row.get(VIDEO_FRAMES) or [])))
    return max(images, audios, frames)


def _sum(files: object) -> int:
    return sum(len(file["bytes"] or b"") for file in cast("list[StoredMedia | None]", files or []) if file is not None)


def check_size(total: int, num_rows: int) -> None:
    """Checks that so many bytes fit in a batch's column.

    Raises:
        MMDatasetsError: If they do not.
    """
    if total > _MOST_BYTES:
        raise MMDatasetsError(
            f"the media of {num_rows} rows is more than 2 GiB, which Arrow does not take in one batch: pass "
            f"map(..., batch_size={max(1, num_rows // 4)}) or less, or a store directory for the files"
        )
