"""Puts the bytes of media files into the rows that refer to them."""

from __future__ import annotations

import posixpath
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import pyarrow as pa

from mmdatasets.errors import MediaError, MediaLimitError
from mmdatasets.features import AUDIOS, IMAGES, VIDEO_FRAMES, VIDEOS
from mmdatasets.media.source import reading
from mmdatasets.types import StoredMedia

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions

_COLUMNS = (IMAGES, VIDEOS, VIDEO_FRAMES, AUDIOS)
_TARGET_BYTES = 2**25
_MOST_BYTES = 2**31 - 1
"""What one Arrow array of bytes holds."""

Nested: TypeAlias = "StoredMedia | list[Nested] | None"


def embed_media(table: pa.Table, names: Sequence[int | str], options: MediaOptions) -> Iterator[pa.Table]:
    """Replaces the paths of media by what the files hold; the name of a file stays beside its bytes.

    Args:
        table: Mapped rows.
        names: What errors call each row.
        options: Say which references may be opened.

    Yields:
        The rows in pieces of about 32 MiB of media, at least one row each.

    Raises:
        MediaError: If a file cannot be read, or the media of one row exceed 2 GiB. Names row, column and index.
    """
    columns = [name for name in _COLUMNS if name in table.column_names]
    begin, size, rows = 0, 0, _empty(columns)
    for position, name in enumerate(names):
        embedded = {column: _embed_row(table[column][position].as_py(), column, name, options) for column in columns}
        row_bytes = sum(_size_of(value) for value in embedded.values())
        if row_bytes > _MOST_BYTES:
            raise MediaLimitError(
                f"the row's media are {row_bytes:,} bytes, and an Arrow column holds at most {_MOST_BYTES:,} of one "
                "row; keep it as references (embed_media=False)",
                row=name,
            )
        if size and size + row_bytes > _TARGET_BYTES:
            yield _with_columns(table.slice(begin, position - begin), rows)
            begin, size, rows = position, 0, _empty(columns)
        size += row_bytes
        for column in columns:
            rows[column].append(embedded[column])
    if begin < table.num_rows:
        yield _with_columns(table.slice(begin), rows)


def _empty(columns: Sequence[str]) -> dict[str, list[Nested]]:
    return {name: [] for name in columns}


def _with_columns(table: pa.Table, rows: dict[str, list[Nested]]) -> pa.Table:
    arrays = [
        pa.array(rows[field.name], field.type) if field.name in rows else table[field.name] for field in table.schema
    ]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _embed_row(value: object, column: str, name: int | str, options: MediaOptions) -> Nested:
    if value is None:
        return None
    items: list[Nested] = []
    for index, item in enumerate(cast("list[Nested]", value)):
        try:
            items.append(_embed(item, options))
        except MediaError as error:
            raise error.at(row=name, column=column, index=index) from error.__cause__
    return items


def _embed(item: Nested, options: MediaOptions) -> Nested:
    if item is None:
        return None
    if isinstance(item, list):
        return [_embed(inner, options) for inner in item]
    if item["bytes"] is not None or item["path"] is None:
        return item
    with reading(item["path"], options) as file:
        return StoredMedia(bytes=file.read(), path=_file_name(item["path"]))


def _file_name(location: str) -> str:
    """The last part of a path or URL: what a file is called tells its format."""
    is_url = "://" in location
    return posixpath.basename(urllib.parse.urlsplit(location).path if is_url else location.replace("\\", "/"))


def _size_of(value: Nested) -> int:
    if value is None:
        return 0
    if isinstance(value, list):
        return sum(map(_size_of, value))
    return len(value["bytes"] or b"")
