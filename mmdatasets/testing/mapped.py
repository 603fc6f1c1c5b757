"""Mapped datasets of any size, made of random numbers: what reports, checks and benchmarks read at scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from datasets.table import InMemoryTable

from mmdatasets.features import (
    INPUT_IDS,
    LABELS,
    LENGTH,
    MADE_BY,
    MEDIA_COLUMNS,
    MEDIA_INFO,
    VIDEO_FRAMES,
    media_info_feature,
    tokenised_features,
)
from mmdatasets.transforms.tokenise import IGNORE_INDEX
from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    import numpy.typing as npt
    from datasets import ClassLabel

    IntArray = npt.NDArray[np.int64]

SAMPLING_RATE = 16_000
FIRST_MEDIA_TOKEN = 2000
"""Token of images; those of videos and audio follow. Text has smaller ids."""

_SHARES = (0.25, 0.55, 0.15, 0.05)  # rows with 0, 1, 2 and 3 items
_KINDS = (0.82, 0.1, 0.08)
_ROWS_AT_ONCE = 20_000


def make_mapped(
    num_rows: int,
    seed: int = 0,
    files: Mapping[Modality, Sequence[str]] | None = None,
    made_by: ClassLabel | None = None,
) -> Dataset:
    """Makes rows as a plugin's transform makes them, with columns that agree with one another.

    Lengths of texts are log-normal; a row has up to three items: images of many sizes, some videos and audio. Token
    ids are random but for media tokens, of which each modality has one.

    Args:
        num_rows: How many rows.
        seed: Of the random numbers.
        files: Files of each modality, to which references go in turn; names of files that are not there when `None`.
        made_by: The type of the column that says what made the rows; without the column when `None`.
    """
    parts = []
    for first in range(0, num_rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, num_rows - first)
        parts.append(_make_part(count, np.random.default_rng((seed, first)), files or {}, made_by, first))
    return concatenate_datasets(parts)


def _make_part(
    count: int,
    rng: np.random.Generator,
    files: Mapping[Modality, Sequence[str]],
    made_by: ClassLabel | None,
    first: int,
) -> Dataset:
    features = tokenised_features(MODALITIES, made_by=made_by)
    schema = features.arrow_schema
    items = _Items(count, rng)
    text = np.clip(rng.lognormal(4.6, 0.8, count).astype(np.int64), 12, 4000)
    length = text + np.bincount(items.row, items.tokens, count).astype(np.int64)
    ids, labels = _tokens(items, text, length, rng)
    offsets = np.concatenate([[0], np.cumsum(length)])
    columns: dict[str, pa.Array] = {
        INPUT_IDS: _lists(pa.array(ids), offsets),
        LABELS: _lists(pa.array(labels), offsets),
        LENGTH: pa.array(length),
        MEDIA_INFO: items.records(),
        MADE_BY: pa.array(np.zeros(count, np.int64)),
        VIDEO_FRAMES: _no_frames(np.bincount(items.row[items.kind == 1], minlength=count)),
    }
    for kind, modality in enumerate(MODALITIES):
        counts = np.bincount(items.row[items.kind == kind], minlength=count)
        columns[MEDIA_COLUMNS[modality]] = _references(counts, files.get(modality, ()), f"{modality}-{first}")
    table = pa.table({field.name: columns[field.name].cast(field.type) for field in schema})
    return Dataset(InMemoryTable(table), info=None).cast(Features(features))


class _Items:
    """The media items of rows: random numbers that fit one another."""

    def __init__(self, num_rows: int, rng: np.random.Generator) -> None:
        counts = rng.choice(len(_SHARES), num_rows, p=_SHARES)
        self.counts = counts
        self.row = np.repeat(np.arange(num_rows), counts)
        number = len(self.row)
        self.kind = rng.choice(len(_KINDS), number, p=_KINDS)
        side = np.exp(rng.normal(6.6, 0.45, (2, number)))
        self.width, self.height = np.clip(side, 60, 5000).astype(np.int64)
        seconds = np.clip(rng.lognormal(2.2, 0.7, number), 1, 120)
        self.frames = np.where(self.kind == 1, np.clip(seconds.astype(np.int64) * 2, 4, 64), 0)
        self.samples = np.where(self.kind == 2, (seconds * SAMPLING_RATE).astype(np.int64), 0)
        self.seconds = seconds
        patches = np.clip(self.width * self.height // 784, 4, 1280)
        of_frames = self.frames // 2 * np.minimum(patches, 64)
        self.tokens = np.where(self.kind == 0, patches, np.where(self.kind == 1, of_frames, self.samples // 640))
        before = np.cumsum(self.tokens) - self.tokens
        firsts = np.cumsum(counts) - counts
        # All items of a row stand at its beginning, each between two tokens of text.
        place = np.arange(number) - firsts[self.row]
        self.start = before - before[np.minimum(firsts, max(number - 1, 0))][self.row] + 2 * place + 1
        self.end = self.start + self.tokens
        self.item = self._numbers()

    def _numbers(self) -> IntArray:
        """Which item of its modality each one is."""
        item = np.zeros(len(self.row), np.int64)
        for kind in range(len(_KINDS)):
            mine = np.flatnonzero(self.kind == kind)
            counts = np.bincount(self.row[mine], minlength=len(self.counts))
            item[mine] = np.arange(len(mine)) - (np.cumsum(counts) - counts)[self.row[mine]]
        return item

    def records(self) -> pa.Array:
        """The column `media_info`."""
        kind = media_info_feature().feature
        schema = Features(kind).arrow_schema
        number, is_video, is_audio = len(self.row), self.kind == 1, self.kind == 2
        offsets = np.concatenate([[0], np.cumsum(self.frames)])
        steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], self.frames)
        values: dict[str, pa.Array] = {
            "modality": pa.array(np.array(MODALITIES)[self.kind]),
            "item": pa.array(self.item),
            "width": pa.array(self.width, mask=is_audio),
            "height": pa.array(self.height, mask=is_audio),
            "frame_indices": _lists(pa.array(steps * 12), offsets, ~is_video),
            "timestamps_s": _lists(pa.array(steps * 0.5), offsets, ~is_video),
            "num_source_frames": pa.array(np.maximum(self.frames * 12, 1), mask=~is_video),
            "fps": pa.array(np.full(number, 24.0), mask=~is_video),
            "duration_s": pa.array(self.frames * 0.5, mask=~is_video),
            "start_s": pa.array(np.zeros(number), mask=~is_audio),
            "end_s": pa.nulls(number),
            "num_samples": pa.array(self.samples, mask=~is_audio),
            "start": pa.array(self.start),
            "end": pa.array(self.end),
            "num_tokens": pa.array(self.tokens),
            "max_pixels": pa.nulls(number),
            "materialised": pa.array(np.zeros(number, bool)),
        }
        arrays = [values[field.name].cast(field.type) for field in schema]
        struct = pa.StructArray.from_arrays(arrays, fields=list(schema))
        return _lists(struct, np.concatenate([[0], np.cumsum(self.counts)]))


def _tokens(
    items: _Items, text: IntArray, length: IntArray, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Token ids, and labels for the last third of each row's text, which stands behind its media."""
    ends = np.cumsum(length)
    ids = rng.integers(0, FIRST_MEDIA_TOKEN, int(length.sum()), dtype=np.int32)
    at = np.repeat((ends - length)[items.row] + items.start, items.tokens) + _within(items.tokens)
    ids[at] = np.repeat(FIRST_MEDIA_TOKEN + items.kind, items.tokens)
    labels = np.full(len(ids), IGNORE_INDEX, np.int32)
    trained = np.maximum(1, text // 3)
    answer = np.repeat(ends - trained, trained) + _within(trained)
    labels[answer] = ids[answer]
    return ids, labels


def _within(counts: IntArray) -> IntArray:
    """0, 1, ... for each of some counts."""
    within: IntArray = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return within


def _lists(values: pa.Array, offsets: IntArray, is_null: npt.NDArray[np.bool_] | None = None) -> pa.ListArray:
    mask = None if is_null is None else pa.array(is_null)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, mask=mask)


def _references(counts: IntArray, files: Sequence[str], prefix: str) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    number = int(offsets[-1])
    names = [files[index % len(files)] for index in range(number)] if files else []
    paths = names or [f"missing/{prefix}-{index}" for index in range(number)]
    struct = pa.StructArray.from_arrays(
        [pa.nulls(number, pa.binary()), pa.array(paths, pa.string())], names=["bytes", "path"]
    )
    return _lists(struct, offsets)


def _no_frames(counts: IntArray) -> pa.ListArray:
    """An empty list of frames for each video."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    nothing = pa.array([], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return _lists(_lists(nothing, np.zeros(int(offsets[-1]) + 1, np.int64)), offsets)
