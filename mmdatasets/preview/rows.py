"""What a preview is given: a row or several, mapped or not, or a batch, told from one another by their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from mmdatasets.errors import ConversationError, MMDatasetsError
from mmdatasets.features import CHOSEN_IDS, INPUT_IDS, LENGTH, MEDIA_INFO, REJECTED_IDS, SEQUENCE_LENGTHS

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin

Given: TypeAlias = "Mapping[str, object] | Sequence[Mapping[str, object]] | pa.Table"
"""A row, a list of rows, columns of rows (`dataset[:4]`, an Arrow table), or a batch as a collator makes it."""

Columns: TypeAlias = dict[str, object]

_IDS = (INPUT_IDS, CHOSEN_IDS, REJECTED_IDS)
_EXPECTED = (
    "expected a row of the dataset, mapped or not, a list of rows, columns of rows as dataset[:4] gives them, or a "
    "batch of the collator"
)
_ANSWERS = ({"chosen", "rejected"}, {"prompt", "completion", "label"}, {"kto_tag"})


def kind_of(given: object) -> Literal["row", "rows", "columns", "batch"]:
    """What a value is.

    Raises:
        MMDatasetsError: If it is none of them.
    """
    if isinstance(given, pa.Table):
        return "columns"
    if isinstance(given, Mapping):
        if not given:
            raise MMDatasetsError(f"nothing to preview, it has no columns: {_EXPECTED}")
        return _kind_of_mapping(given)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if given and all(isinstance(row, Mapping) for row in given):
            return "rows"
        raise MMDatasetsError(f"a list of {len(given)} values that are no rows: {_EXPECTED}")
    raise MMDatasetsError(f"cannot preview {type(given).__name__}: {_EXPECTED}")


def _kind_of_mapping(given: Mapping[str, object]) -> Literal["row", "columns", "batch"]:
    ids = next((value for name, value in given.items() if name in _IDS or name.endswith(f"_{INPUT_IDS}")), None)
    if ids is None:
        return "columns" if any(_is_column(value) for value in _chats(given)) else "row"
    if not _is_nested(ids):
        return "row"
    is_mapped = LENGTH in given or MEDIA_INFO in given or SEQUENCE_LENGTHS in given
    return "columns" if is_mapped or not isinstance(ids, torch.Tensor | np.ndarray) else "batch"


def _chats(given: Mapping[str, object]) -> list[object]:
    return [value for value in given.values() if isinstance(value, list | tuple) and value]


def _is_column(value: object) -> bool:
    """Whether it is the column of a chat: a list of chats, each a list of turns, or strings."""
    first = value[0]  # type: ignore[index]
    return isinstance(first, list | tuple) and bool(first) and isinstance(first[0], Mapping) and _is_turn(first[0])


def _is_turn(value: Mapping[str, object]) -> bool:
    return bool({"role", "from"} & set(value))


def _is_nested(ids: object) -> bool:
    if isinstance(ids, torch.Tensor | np.ndarray):
        return ids.ndim > 1 or ids.dtype == object
    return isinstance(ids, Sequence) and bool(ids) and not isinstance(ids[0], int | np.integer | float)


def split_columns(columns: Mapping[str, object] | pa.Table) -> list[Mapping[str, object] | pa.Table]:
    """The rows that columns hold.

    Raises:
        MMDatasetsError: If the columns have different lengths.
    """
    if isinstance(columns, pa.Table):
        return [columns.slice(place, 1) for place in range(len(columns))]
    lengths = {name: len(values) for name, values in columns.items()}  # type: ignore[arg-type]
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise MMDatasetsError(f"the columns have different lengths ({said}): {_EXPECTED}")
    count = next(iter(lengths.values()), 0)
    return [{name: values[place] for name, values in columns.items()} for place in range(count)]  # type: ignore[index]


def mapped_row(plugin: BasePlugin, row: Mapping[str, object] | pa.Table) -> Columns:
    """The row as the plugin's transform makes it, with plain lists of numbers.

    Raises:
        MMDatasetsError: If the transform refuses it.
    """
    names = set(row.column_names if isinstance(row, pa.Table) else row)
    if not {INPUT_IDS, CHOSEN_IDS} & names:
        row = _transformed(plugin, row, names)
    elif isinstance(row, pa.Table):
        row = row.to_pylist()[0]
    return {name: _plain(value) for name, value in row.items()}


def _transformed(plugin: BasePlugin, row: Mapping[str, object] | pa.Table, names: set[str]) -> Columns:
    batch = row if isinstance(row, pa.Table) else {name: [value] for name, value in row.items()}
    has_answers = any(columns <= names for columns in _ANSWERS)
    made = plugin.preference_transform(batch) if has_answers else plugin.transform(batch)
    if not isinstance(made, Mapping):
        made = made.to_pydict()
    if not len(made.get(INPUT_IDS, made.get(CHOSEN_IDS, ()))):
        raise ConversationError(
            "the plugin's transform leaves this row out: preview it with a plugin whose on_error and on_overflow are "
            '"raise" and "error", which say why'
        )
    return {name: column[0] for name, column in made.items()}


def _plain(value: object) -> object:
    """Numbers as Python has them: rows of a dataset with a format have tensors or arrays. Media stays as it is."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor | np.ndarray) and value.ndim < 2):
        value = value.tolist()
    if isinstance(value, Mapping) and not {"bytes", "path", "array", "frames"} & set(value):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], int | float | str):
        return [_plain(item) for item in value]
    return value
