"""A side table of the rows that a transform dropped or changed: small Parquet files in a directory.

`datasets.map` has no place for what is said of rows that are not in its result. It runs in several processes, which
may be killed and begin anew. So each batch writes a file of its own, as a whole or not at all, under a name that is
made of what the batch held: a batch that is mapped again writes the same file again. Of rows whose number is known,
what is said in several files counts once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmdatasets.disk import cannot_write
from mmdatasets.errors import MediaError, MMDatasetsError
from mmdatasets.media.source import to_stored

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("index", pa.int32()),
        ("source", pa.string()),
        ("length", pa.int64()),
        ("message", pa.string()),
        ("digest", pa.string()),
    ]
)
"""The columns of the table; see `LoggedRow`."""

_PREFIX = "rows"


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """What became of a row that is not in a transform's result as it was.

    Attributes:
        row: Number of the row in the dataset; `None` where the map was not told (`with_indices=True`).
        outcome: What became of it: `"dropped"`, `"cut"`, `"shrunk"`; in the collator `"replaced"`.
        reason: Why.
        column: The column to blame, if one is.
        index: The media item within it.
        source: What that item is.
        length: How many tokens the row had, where it came so far.
        message: What the error says, where the row could not be used.
        digest: The row's `row_digest`, likewise.
    """

    row: int | None
    outcome: str
    reason: str
    column: str | None = None
    index: int | None = None
    source: str | None = None
    length: int | None = None
    message: str | None = None
    digest: str | None = None


_collector: ContextVar[list[LoggedRow] | None] = ContextVar("_collector", default=None)


@contextmanager
def collect_rows() -> Iterator[list[LoggedRow]]:
    """Has the transforms that are called within it say of which rows of theirs something is to be said.

    Yields:
        A list that they add to, whether they also write a log or not.
    """
    rows: list[LoggedRow] = []
    token = _collector.set(rows)
    try:
        yield rows
    finally:
        _collector.reset(token)


def offer_rows(rows: Sequence[LoggedRow]) -> bool:
    """Adds rows to the list of `collect_rows`, if the caller is called within it.

    Returns:
        Whether it is.
    """
    collected = _collector.get()
    if collected is not None:
        collected.extend(rows)
    return collected is not None


def row_digest(row: Mapping[str, object]) -> str:
    """Tells a row from others by what its columns hold, where its number is not known.

    Args:
        row: The row as it is stored, media undecoded: one of `dataset.with_format("arrow")[index].to_pylist()`.

    Returns:
        32 hexadecimal digits, the same wherever and in whatever order of the columns.
    """
    digest = blake2b(digest_size=16)
    _fold(digest, row)
    return digest.hexdigest()


def _fold(digest: blake2b, value: object) -> None:
    """Adds a value with its type and length, so that no two different ones add the same."""
    if isinstance(value, Mapping):
        digest.update(b"{%d" % len(value))
        for key in sorted(value, key=str):
            _fold(digest, str(key))
            _fold(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(b"[%d" % len(value))
        for item in value:
            _fold(digest, item)
    elif hasattr(value, "tolist") and not isinstance(value, memoryview):  # arrays and tensors
        _fold(digest, value.tolist())
    elif isinstance(value, bytes | bytearray | memoryview | str):
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
        digest.update(b"%c%d:" % (b"s" if isinstance(value, str) else b"b", len(data)))
        digest.update(data)
    elif value is None or isinstance(value, bool | int | float):
        digest.update(f"={value!r};".encode())
    else:
        try:
            _fold(digest, to_stored(value))
        except MediaError:  # a streaming dataset may have any object in its rows: of those the type must do
            digest.update(f"?{type(value).__name__};".encode())


def write_row_log(
    directory: str | os.PathLike[str], run: str, batch: Iterable[bytes], rows: Sequence[LoggedRow]
) -> Path | None:
    """Writes what is to be said of a batch's rows.

    Args:
        directory: Local directory; it is made.
        run: What the transform's settings are told by: letters and digits.
        batch: What the batch held, in bytes, by which the file is named.
        rows: The rows.

    Returns:
        The file; `None` where nothing is to be said.

    Raises:
        MMDatasetsError: If it cannot be written.
    """
    if not rows:
        return None
    table = pa.Table.from_pylist([_encodable(asdict(row)) for row in rows], schema=SCHEMA)
    digest = blake2b(repr(rows).encode(), digest_size=12)
    for piece in batch:
        digest.update(piece)
    path = Path(directory) / f"{_PREFIX}-{run}-{digest.hexdigest()}.parquet"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(table, path)
    except OSError as error:
        raise cannot_write("the log of rows", error, directory) from error
    return path


def _encodable(fields: dict[str, object]) -> dict[str, object]:
    """The same with halves of characters written out, which a row may have and Arrow does not take."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _write_whole(table: pa.Table, path: Path) -> None:
    """Writes a file of another name first, so that a process that is killed leaves no half of one behind."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_row_log(directory: str | os.PathLike[str], run: str | None = None) -> pa.Table:
    """Reads what was written of rows, in the order of the dataset as far as their numbers are known.

    Args:
        directory: The directory.
        run: Only what a transform of these settings wrote.

    Returns:
        A table with the columns of `SCHEMA`; without rows where there is no directory, or nothing was written.

    Raises:
        MMDatasetsError: If a file cannot be read.
    """
    pattern = f"{_PREFIX}-{'*' if run is None else run}-*.parquet"
    tables = []
    for path in sorted(Path(directory).glob(pattern)):
        try:
            tables.append(pq.read_table(path, schema=SCHEMA))
        except (OSError, pa.ArrowException) as error:
            raise MMDatasetsError(f"cannot read this part of the log of rows: {error}", source=str(path)) from error
    return _distinct(pa.concat_tables(tables)).sort_by("row") if tables else SCHEMA.empty_table()


def _distinct(table: pa.Table) -> pa.Table:
    """The table without what is said twice of a row: a dataset may be mapped again in batches of another size.

    A row that a collator replaces comes up again each epoch.
    """
    is_known = pc.or_(pc.is_valid(table["row"]), pc.equal(table["outcome"], "replaced"))
    known = table.filter(is_known).group_by(SCHEMA.names, use_threads=False).aggregate([])
    return pa.concat_tables([known.select(SCHEMA.names).cast(SCHEMA), table.filter(pc.invert(is_known))])


def remove_unfinished(directory: str | os.PathLike[str], run: str) -> None:
    """Removes what processes that were killed left of a log. No process may be writing one of these settings.

    Args:
        directory: The directory; it may be missing.
        run: What the transform's settings are told by.
    """
    for path in Path(directory).glob(f".{_PREFIX}-{run}-*"):
        path.unlink(missing_ok=True)
