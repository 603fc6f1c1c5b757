"""Decodes the media of a batch's rows, runs the model's processor on it, and checks the outcome against the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch

from mmdatasets.collate.checks import check_features
from mmdatasets.collate.rows import RowMedia, order_by_text
from mmdatasets.errors import CollateError, MediaError, MediaProcessorError
from mmdatasets.options import PixelBudget
from mmdatasets.planning.inputs import join_outputs
from mmdatasets.types import Expansion, MediaInput, MediaItem

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine

MediaInputs: TypeAlias = "dict[str, torch.Tensor | list[list[int]] | NestedTensors]"
"""Inputs of a model by name: tensors, lists that accompany the token ids of each row, and nested lists of tensors."""

Decoded: TypeAlias = dict[PixelBudget | None, dict[object, MediaInput]]
"""Decoded items of a batch: budget -> what the item is -> the item."""

_Item = TypeVar("_Item", MediaInput, MediaItem)

NestedTensors: TypeAlias = "Sequence[torch.Tensor | NestedTensors]"
"""For models that take each row's tensors, of whatever sizes, in a list of its own."""


def make_inputs(
    plugin: BasePlugin,
    engine: Engine,
    media: Sequence[RowMedia],
    batch_ids: Sequence[Sequence[int]],
    copies: int = 1,
) -> MediaInputs:
    """What the model takes beside the token ids.

    Args:
        plugin: The family's rules.
        engine: The processor at work.
        media: The media of each row.
        batch_ids: Token ids of each row; may be empty, then nothing is checked against them. With several `copies`
            all rows' first sequences, then all rows' second ones, and so on.
        copies: How many sequences of `batch_ids` share each row's media, which is decoded once, and processed once
            where the family's `outputs_are_stacked`.

    Raises:
        MediaError: If an item cannot be decoded or processed. Names the row of the batch and the item.
        CollateError: If the features made do not fit the media tokens of a row.
    """
    rows = _load(engine, media)
    if batch_ids:
        sources = enumerate(zip(rows, media, batch_ids[: len(media)], strict=True))
        rows = [_in_order(plugin, engine, index, *row) for index, row in sources]
    inputs: MediaInputs = {}
    made: list[list[int]] = [[] for _ in media]
    if any(rows):
        again = 1 if plugin.outputs_are_stacked else copies  # how often the processor sees the same media
        outputs, expansions = _process(plugin, engine, rows * again, [*media] * again)
        inputs.update({name: _repeated(value, copies // again) for name, value in outputs.items()})  # type: ignore[misc]
        supply = iter(expansions)
        made = [[one.num_media_tokens for one in islice(supply, len(row))] for row in rows]
    if batch_ids:
        check_features(engine, made * copies, [*media] * copies, batch_ids)
    return plugin.finish_inputs(engine, inputs, batch_ids)


def _repeated(value: object, copies: int) -> object:
    """A processor's output for so many copies of its rows: the first dimension is that of rows, items or patches."""
    if copies == 1:
        return value
    return torch.cat([value] * copies) if isinstance(value, torch.Tensor) else list(value) * copies  # type: ignore[call-overload]


def _load(engine: Engine, media: Sequence[RowMedia]) -> list[list[MediaInput]]:
    """Decodes a batch's media, what several rows share once. Nothing is kept beyond the batch."""
    decoded: Decoded = {}
    rows = []
    for index, row in enumerate(media):
        try:
            rows.append([*load_row(engine, row, decoded), *row.blanks])
        except (MediaError, CollateError) as error:
            raise error.at(row=f"{index} of the batch") from error.__cause__
    return rows


def load_row(engine: Engine, row: RowMedia, decoded: Decoded) -> Sequence[MediaInput]:
    """Decodes a row's media, unless it is decoded already.

    Args:
        engine: The processor at work.
        row: The media.
        decoded: What is decoded already; what is decoded here is added.

    Raises:
        MediaError: If an item cannot be decoded. Names column, index and source.
        CollateError: If the row's items have several budgets.
    """
    if row.loaded is not None:
        return row.loaded
    reader, known = engine.at_budget(row.budget).media, decoded.setdefault(row.budget, {})
    return reader.load(row.items, row.plans, known)


def _in_order(
    plugin: BasePlugin, engine: Engine, index: int, row: list[MediaInput], media: RowMedia, ids: Sequence[int]
) -> list[MediaInput]:
    """A row's items in the order of the text: rows that were mapped have it, for others the ids tell."""
    modalities = [item.modality for item in row]
    if media.num_tokens is not None or len(set(modalities)) < 2:
        return row
    if not plugin.tokens_tell_modality and {"image", "video"} <= set(modalities):
        raise MediaError(
            "it has images and videos, and the model's tokens do not tell which comes first: map the dataset with "
            "plugin.transform and use plugin.collator, whose rows say so",
            row=f"{index} of the batch",
        )
    made = [engine.media.expand_one(item.shape) for item in row]
    return [row[position] for position in order_by_text(engine, ids, modalities, made)]


def _process(
    plugin: BasePlugin, engine: Engine, rows: Sequence[Sequence[MediaInput]], media: Sequence[RowMedia]
) -> tuple[dict[str, object], list[Expansion]]:
    """Runs the processor on a batch's media: once, or where rows have budgets, once for each stretch of equal ones."""
    engines = [engine.at_budget(row.budget) for row in media]
    if all(one.runner is engine.runner for one in engines):
        return _process_rows(plugin, engine, rows, media)
    if any(item.sound is not None for row in rows for item in row):
        return _process_stretches(plugin, engines, rows, media)
    # A budget is nothing to audio, which is padded to the longest of the batch.
    seen_rows, heard_rows = ([_of_kind(row, audio) for row in rows] for audio in (False, True))
    seen_media, heard_media = (
        [replace(row, items=_of_kind(row.items, audio), max_pixels=(), loaded=None) for row in media]
        for audio in (False, True)
    )
    outputs, seen = _process_stretches(plugin, engines, seen_rows, seen_media)
    sounds: list[Expansion] = []
    if any(heard_rows):
        audio, sounds = _process_rows(plugin, engine, heard_rows, heard_media)
        outputs = {**outputs, **audio}
    supplies = {True: iter(sounds), False: iter(seen)}
    return outputs, [next(supplies[item.modality == "audio"]) for row in rows for item in row]


def _of_kind(items: Sequence[_Item], audio: bool) -> list[_Item]:
    return [item for item in items if (item.modality == "audio") == audio]


def _process_stretches(
    plugin: BasePlugin,
    engines: Sequence[Engine],
    rows: Sequence[Sequence[MediaInput]],
    media: Sequence[RowMedia],
) -> tuple[dict[str, object], list[Expansion]]:
    """Runs the processor on rows that follow one another with the same runner, and joins what it makes of them.

    Raises:
        CollateError: If that cannot be joined.
    """
    parts: list[dict[str, object]] = []
    expansions: list[Expansion] = []
    for _, stretch in groupby(range(len(rows)), key=lambda row: id(engines[row].runner)):
        some = list(stretch)
        if any(rows[row] for row in some):
            made = _process_rows(plugin, engines[some[0]], [rows[row] for row in some], [media[row] for row in some])
            parts.append(made[0])
            expansions += made[1]
    outputs: dict[str, object] = {}
    for name in dict.fromkeys(chain(*parts)):
        try:
            outputs |= join_outputs(
                [{name: part[name]} for part in parts if name in part], plugin.frames_are_independent
            )
        except ValueError as error:
            raise CollateError(
                f"{name} of rows that were shrunk to different budgets does not fit in one tensor: make batches of "
                "one row, or map with another on_overflow"
            ) from error
    return outputs, expansions


def _process_rows(
    plugin: BasePlugin, engine: Engine, rows: Sequence[Sequence[MediaInput]], media: Sequence[RowMedia]
) -> tuple[dict[str, object], list[Expansion]]:
    try:
        return plugin.process_media(engine, rows)
    except MediaProcessorError as error:
        for index, (row, origin) in enumerate(zip(rows, media, strict=True)):
            if not origin.items:
                continue
            shapes = [item.shape for item in row[: len(origin.items)]]
            located = engine.media.locate_refusal(error, origin.items, shapes)
            if located.index is not None:
                raise located.at(row=f"{index} of the batch") from error.__cause__
        _locate_row(plugin, engine, rows, media)
        raise


def _locate_row(
    plugin: BasePlugin, engine: Engine, rows: Sequence[Sequence[MediaInput]], media: Sequence[RowMedia]
) -> None:
    """Finds the row whose media was materialised for another processor, by processing such rows one by one.

    Raises:
        MediaProcessorError: The processor's error on the row, naming it.
    """
    for index, (row, origin) in enumerate(zip(rows, media, strict=True)):
        if any(plan is not None and plan.materialised for plan in origin.plans):
            try:
                plugin.process_media(engine, [row])
            except MediaProcessorError as error:
                raise error.at(row=f"{index} of the batch") from error.__cause__
