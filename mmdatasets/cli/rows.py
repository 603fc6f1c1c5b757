"""Reads a JSONL file of conversations into a `datasets.Dataset`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.errors import ConversationError, MMDatasetsError

if TYPE_CHECKING:
    from datasets import Dataset


def read_chat_jsonl(path: Path) -> Dataset:
    """Reads rows `{"messages": [...], "images": [...]}`, one JSON object a line; empty lines are skipped.

    Args:
        path: The file. Image paths are kept as they are written: give its folder to `MediaOptions(media_root=...)`.

    Returns:
        A dataset with the columns `messages` and `images` (`List(Image(decode=False))`); other columns as they are.
        `images` is null where a row has no such key, which is not the same as an empty list: a placeholder in the
        text of such a row is an error, not text.

    Raises:
        MMDatasetsError: The file cannot be read, or a line is not a JSON object.
        ConversationError: A row has no `messages`, or they or its `images` have a wrong type.
    """
    import pyarrow as pa
    from datasets import Dataset, Image, List

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MMDatasetsError(f"cannot read the data file: {error}", source=str(path)) from error
    # Not str.splitlines, which also splits at characters that JSON allows inside a string.
    lines = enumerate(text.split("\n"), start=1)
    rows = [_parse_row(line, number, path) for number, line in lines if line.strip()]
    if not rows:
        raise MMDatasetsError("the data file holds no rows; expected one JSON object a line", source=str(path))
    images = [row.pop("images") for row in rows]
    try:
        # Some rows write a message's content as text, others as typed parts: `datasets` keeps such a column as JSON.
        dataset = Dataset.from_list(rows, on_mixed_types="use_json")
        return dataset.add_column("images", images, feature=List(Image(decode=False)))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise MMDatasetsError(f"the rows do not fit into one table: {error}", source=str(path)) from error


def _parse_row(line: str, number: int, path: Path) -> dict[str, object]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise MMDatasetsError(f"not valid JSON: {error.msg} (character {error.pos + 1})", source=where) from error
    except RecursionError as error:
        raise MMDatasetsError("the JSON is nested too deeply", source=where) from error
    if not isinstance(row, dict):
        raise MMDatasetsError(f"expected a JSON object, got {type(row).__name__}", source=where)
    messages, images = row.get("messages"), row.get("images")
    if not isinstance(messages, list) or not messages:
        found = "no such key" if "messages" not in row else f"got {messages!r:.60}"
        raise ConversationError(
            'expected "messages", a list of {"role": ..., "content": ...}, ' + found, column="messages", source=where
        )
    if images is not None and not (isinstance(images, list) and all(isinstance(image, str) for image in images)):
        raise ConversationError(
            f'expected "images", a list of paths or URLs, got {images!r:.60}', column="images", source=where
        )
    references = None if images is None else [{"bytes": None, "path": image} for image in images]
    return {**row, "images": references}
