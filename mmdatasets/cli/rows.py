"""Reads a JSON or JSONL file of chats, in any layout, into a `datasets.Dataset`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.chat.layouts import Layout, find_layout
from mmdatasets.errors import ConversationError, MMDatasetsError

if TYPE_CHECKING:
    from datasets import Dataset

Row: TypeAlias = dict[str, object]

_IMAGES, _OTHER_MEDIA = "images", ("videos", "audios")


def read_chats(path: Path) -> Dataset:
    """Reads rows of chats: one JSON object a line, where empty lines are skipped, or one JSON array of objects.

    Args:
        path: The file. Its columns tell the layout, see `mmdatasets.chat.layouts.LayoutName`. Media paths are kept as
            they are written: give its folder to `MediaOptions(media_root=...)`.

    Returns:
        A dataset with the chat's columns and `images` (`List(Image(decode=False))`); `videos` and `audios` where rows
        have some; other columns as they are. A row's single `image`, `video` or `audio` becomes a list of one. These
        columns are null where a row has no such key, which is not the same as an empty list: a placeholder in the text
        of such a row is an error, not text.

    Raises:
        MMDatasetsError: The file cannot be read, or has something else than JSON objects.
        ConversationError: The columns fit no layout, or a row does not have its columns or has other media than paths.
    """
    import pyarrow as pa
    from datasets import Dataset, Image, List

    found = _parse_file(path)
    if not found:
        raise MMDatasetsError("the data file holds no rows; expected one JSON object a line", source=str(path))
    layout = _layout_of([row for _, row in found], path)
    rows = [_checked_row(row, layout, f"{path}, {where}") for where, row in found]
    images = [row.pop(_IMAGES) for row in rows]
    for name in _OTHER_MEDIA:
        if all(row[name] is None for row in rows):
            rows = [{key: value for key, value in row.items() if key != name} for row in rows]
    try:
        # Some rows write a message's content as text, others as typed parts: `datasets` keeps such a column as JSON.
        dataset = Dataset.from_list(rows, on_mixed_types="use_json")
        return dataset.add_column(_IMAGES, images, feature=List(Image(decode=False)))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise MMDatasetsError(f"the rows do not fit into one table: {error}", source=str(path)) from error


def _parse_file(path: Path) -> list[tuple[str, Row]]:
    """The objects in a file, and where each stands."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MMDatasetsError(f"cannot read the data file: {error}", source=str(path)) from error
    if text.lstrip().startswith("["):
        values = _parse(text, str(path))
        pieces = ((f"row {number}", value) for number, value in enumerate(_as_list(values)))
    else:
        # Not str.splitlines, which also splits at characters that JSON allows inside a string.
        lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
        pieces = ((where, _parse(line, f"{path}, {where}")) for where, line in lines)
    return [(where, _as_object(value, f"{path}, {where}")) for where, value in pieces]


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MMDatasetsError(f"not valid JSON: {error.msg} (character {error.pos + 1})", source=where) from error
    except RecursionError as error:
        raise MMDatasetsError("the JSON is nested too deeply", source=where) from error


def _as_list(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [value]


def _as_object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise MMDatasetsError(f"expected a JSON object, got {type(value).__name__}", source=where)
    return value


def _layout_of(rows: Iterable[Row], path: Path) -> Layout:
    names: dict[str, bool] = {}  # whether each has a boolean
    for row in rows:
        for name, value in row.items():
            names[name] = names.get(name, False) or isinstance(value, bool)
    try:
        return find_layout(list(names), booleans=[name for name, is_boolean in names.items() if is_boolean])
    except ConversationError as error:
        raise error.at(source=str(path)) from error.__cause__


def _checked_row(row: Row, layout: Layout, where: str) -> Row:
    """The row with its media as lists under the names of the plural.

    Raises:
        ConversationError: If it lacks a column of the layout, or has other media than paths.
    """
    missing = [name for name in layout.needed if row.get(name) is None]
    if missing:
        raise ConversationError(
            f"the file's rows are {layout.name!r}, which need {', '.join(layout.needed)}; this one has "
            f"{', '.join(row) or 'nothing'}",
            column=missing[0],
            source=where,
        )
    try:
        messages = layout.messages({name: row.get(name) for name in layout.consumed(row)})
    except ConversationError as error:
        raise error.at(source=where) from error.__cause__
    if not isinstance(messages, list) or not messages:
        raise ConversationError(
            f"expected a list of messages, got {messages!r:.60}", column=layout.needed[0], source=where
        )
    media = {name: _references(row, name, where) for name in (_IMAGES, *_OTHER_MEDIA)}
    images = media[_IMAGES]
    stored = None if images is None else [{"bytes": None, "path": image} for image in images]
    singular = {name.removesuffix("s") for name in media}
    rest = {name: value for name, value in row.items() if name not in media and name not in singular}
    return {**rest, **media, _IMAGES: stored}


def _references(row: Mapping[str, object], name: str, where: str) -> list[str] | None:
    """A row's paths and URLs of a modality."""
    singular = name.removesuffix("s")
    if row.get(name) is not None and row.get(singular) is not None:
        raise ConversationError(
            f"the row has both {name!r} and {singular!r}; leave one out", column=name, source=where
        )
    column = name if row.get(name) is not None else singular
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, str) and column == singular:
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ConversationError(
        f'expected "{name}", a list of paths or URLs, got {value!r:.60}', column=column, source=where
    )
