"""Gathers what a preview says of rows and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, cast

import torch

from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import (
    CHOSEN_IDS,
    CHOSEN_LABELS,
    FIT,
    INPUT_IDS,
    LABEL,
    LABELS,
    MEDIA_INFO,
    REJECTED_IDS,
    REJECTED_LABELS,
    SEQUENCE_LENGTHS,
)
from mmdatasets.preview.facts import Facts, Media, Row, Tensor, TokenSequence
from mmdatasets.preview.media import MediaViewer, count_items
from mmdatasets.preview.rows import Columns, Given, kind_of, mapped_row, split_columns
from mmdatasets.preview.sequence import MediaSpan, SequenceReader, shorten
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    import pyarrow as pa

    from mmdatasets.features import FitRecord, MediaRecord
    from mmdatasets.plugins.base import BasePlugin

ROWS = 16
"""Rows that are shown; further ones are counted."""
_ANSWERS = ((CHOSEN_IDS, CHOSEN_LABELS, "chosen"), (REJECTED_IDS, REJECTED_LABELS, "rejected"))
_MASK, _COMPLETION = "attention_mask", "completion_mask"


def gather(plugin: BasePlugin, given: Given, names: Sequence[str] | None = None, *, decode: bool = True) -> Facts:
    """What is to be said of a row, several rows, or a batch.

    Args:
        plugin: The plugin that made them, or that is to map them.
        given: What is previewed.
        names: What the rows are called; their positions when `None`.
        decode: Whether media is decoded, to be shown. Without, it is only described.

    Raises:
        MMDatasetsError: If it is nothing of the kind, or a row cannot be mapped.
    """
    kind = kind_of(given)
    reader = SequenceReader(plugin.engine)
    if kind == "batch":
        return _batch_facts(plugin, reader, cast("Mapping[str, object]", given))
    rows: list[Mapping[str, object] | pa.Table]
    if kind == "row":
        rows = [cast("Mapping[str, object]", given)]
    elif kind == "columns":
        rows = split_columns(cast("Mapping[str, object] | pa.Table", given))
    else:
        rows = list(cast("Sequence[Mapping[str, object]]", given))
    called = names or ([f"row {place}" for place in range(len(rows))] if kind != "row" else ["row"])
    mapped = [_mapped(plugin, row, name) for row, name in zip(rows[:ROWS], called, strict=False)]
    viewer = MediaViewer(plugin, count_items(mapped), decode=decode)
    made = [_row(reader, viewer, row, name) for row, name in zip(mapped, called, strict=False)]
    title = called[0].capitalize() if len(rows) == 1 else f"{len(rows):,} rows"
    has_labels = any(sequence.num_trained is not None for row in made for sequence in row.sequences)
    return _facts(plugin, title, _shortened(made), has_labels=has_labels, omitted_rows=len(rows) - len(made))


def _mapped(plugin: BasePlugin, row: Mapping[str, object] | pa.Table, name: str) -> Columns:
    try:
        return mapped_row(plugin, row)
    except MMDatasetsError as error:
        if error.row in (None, "0 of the batch"):
            error.row = name.removeprefix("row ") if name != "row" else None
        raise


def _facts(plugin: BasePlugin, title: str, rows: Sequence[Row], **further: object) -> Facts:
    return Facts(title, plugin.family, type(plugin.processor).__name__, tuple(rows), **further)  # type: ignore[arg-type]


def _shortened(rows: Sequence[Row]) -> list[Row]:
    short = iter(shorten([sequence for row in rows for sequence in row.sequences]))
    return [replace(row, sequences=tuple(next(short) for _ in row.sequences)) for row in rows]


# ------------------------------------------------------------------------------------------------------------ rows


def _row(reader: SequenceReader, viewer: MediaViewer, row: Columns, name: str) -> Row:
    media = viewer.view(row)
    records = cast("Sequence[MediaRecord]", row.get(MEDIA_INFO) or ())
    spans = [MediaSpan(int(one["start"]), int(one["end"]), place) for place, one in enumerate(records)]
    return Row(name, tuple(_sequences(reader, row, name, spans, media)), tuple(media), tuple(_remarks(row)))


def _sequences(
    reader: SequenceReader, row: Columns, name: str, spans: Sequence[MediaSpan], media: Sequence[Media]
) -> Iterator[TokenSequence]:
    if CHOSEN_IDS in row:
        chosen = _numbers(row, CHOSEN_IDS)
        for ids_column, labels_column, side in _ANSWERS:
            ids = _numbers(row, ids_column)
            # Spans are those of the chosen side; the other one has the same prompt.
            shared = [span for span in spans if ids[: span.end] == chosen[: span.end]]
            yield reader.read(side, ids, _trained(row, labels_column, len(ids)), shared, media)
        return
    ids = _numbers(row, INPUT_IDS)
    trained = _trained(row, LABELS, len(ids))
    lengths = _numbers(row, SEQUENCE_LENGTHS) if row.get(SEQUENCE_LENGTHS) is not None else [len(ids)]
    start = 0
    for number, length in enumerate(lengths):
        end = start + length
        own = [
            MediaSpan(span.start - start, span.end - start, span.media) for span in spans if start <= span.start < end
        ]
        called = name if len(lengths) == 1 else f"sequence {number} of {len(lengths)}"
        yield reader.read(called, ids[start:end], None if trained is None else trained[start:end], own, media)
        start = end


def _numbers(row: Mapping[str, object], column: str) -> list[int]:
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise MMDatasetsError("expected a list of whole numbers, as plugin.transform makes it", column=column)
    return value


def _trained(row: Columns, column: str, count: int) -> list[bool] | None:
    if row.get(column) is None:
        return None
    labels = _numbers(row, column)
    if len(labels) != count:
        raise MMDatasetsError(f"{len(labels)} labels for {count} tokens: map the dataset again", column=column)
    return [label != IGNORE_INDEX for label in labels]


def _remarks(row: Columns) -> Iterator[tuple[str, str]]:
    if isinstance(row.get(LABEL), bool):
        yield "answer", "good" if row[LABEL] else "bad"
    fit = cast("FitRecord | None", row.get(FIT))
    if fit and fit["outcome"] != "kept":
        yield "fit", f"{fit['outcome']} ({fit['reason']}), it had {fit['original_length']:,} tokens"


# ----------------------------------------------------------------------------------------------------------- batches


def _batch_facts(plugin: BasePlugin, reader: SequenceReader, batch: Mapping[str, object]) -> Facts:
    rows: list[Row] = []
    padded = total = 0
    for name, ids in _id_tensors(batch):
        prefix = name.removesuffix(INPUT_IDS)
        padding = _padding(batch.get(f"{prefix}{_MASK}"), ids)
        trained = _trained_in(batch, prefix, ids)
        total += ids.numel()
        padded += int(padding.sum())
        for place in range(len(ids)):
            called = f"{prefix.rstrip('_') + ' ' if prefix else ''}row {place}"
            mask = None if trained is None else trained[place].tolist()
            made = reader.read(called, ids[place].tolist(), mask, padding=padding[place].tolist())
            rows.append(Row(called, (made,)))
            if len(rows) >= ROWS:
                break
    num_rows = sum(len(ids) for _, ids in _id_tensors(batch))
    if not rows:
        raise MMDatasetsError(f"the batch has no tensor 'input_ids' of (rows, tokens), only {', '.join(batch)}")
    return _facts(
        plugin,
        f"Batch of {num_rows:,} row{'' if num_rows == 1 else 's'}",
        _shortened(rows),
        tensors=list_tensors(batch),
        padding=padded / total if total else 0.0,
        has_labels=any(row.sequences[0].num_trained is not None for row in rows),
        omitted_rows=num_rows - len(rows),
    )


def _id_tensors(batch: Mapping[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in batch.items():
        tensor = torch.as_tensor(value) if _is_numeric(value) else None
        if tensor is not None and tensor.ndim == 2 and (name == INPUT_IDS or name.endswith(f"_{INPUT_IDS}")):
            yield name, tensor.cpu()


def _is_numeric(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (hasattr(value, "dtype") and hasattr(value, "ndim"))


def _padding(mask: object, ids: torch.Tensor) -> torch.Tensor:
    if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
        return mask.cpu() == 0
    return torch.zeros_like(ids, dtype=torch.bool)


def _trained_in(batch: Mapping[str, object], prefix: str, ids: torch.Tensor) -> torch.Tensor | None:
    labels, completion = batch.get(f"{prefix}{LABELS}"), batch.get(f"{prefix}{_COMPLETION}")
    if isinstance(labels, torch.Tensor) and labels.shape == ids.shape:
        return labels.cpu() != IGNORE_INDEX
    if isinstance(completion, torch.Tensor) and completion.shape == ids.shape:
        return completion.cpu() == 1
    return None


def list_tensors(batch: Mapping[str, object]) -> tuple[Tensor, ...]:
    """The tensors of a batch, in its order."""
    return tuple(chain.from_iterable(_tensors(str(name), value) for name, value in batch.items()))


def _tensors(name: str, value: object) -> Iterator[Tensor]:
    """A batch's entry as lines of a table; nested lists are one line, by their first tensor."""
    leaves = list(_leaves(value))
    if isinstance(value, torch.Tensor):
        yield Tensor(name, str(tuple(value.shape)), _dtype(value), value.numel() * value.element_size())
    elif leaves:
        shapes = dict.fromkeys(str(tuple(leaf.shape)) for leaf in leaves)
        shown = next(iter(shapes)) if len(shapes) == 1 else f"{len(shapes)} shapes, the first {next(iter(shapes))}"
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        yield Tensor(name, f"{len(leaves)} of {shown}", _dtype(leaves[0]), size)
    else:
        yield Tensor(name, repr(value)[:60], type(value).__name__, 0)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype)


def _leaves(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_leaves, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_leaves, value))
