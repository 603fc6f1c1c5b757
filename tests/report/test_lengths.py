"""What lengths come to, against plain Python on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.report.columns import read_columns
from mmdatasets.report.lengths import (
    KEPT_SHARE,
    MULTIPLE,
    SEED,
    choose_max_lengths,
    histogram,
    length_histogram,
    overflow_counts,
    packing_fill,
    padding_waste,
    quantiles,
    suggest_max_length,
)
from mmdatasets.testing.mapped import make_mapped
from mmdatasets.transforms.packing import Packer

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=80).map(np.asarray)


@pytest.fixture(scope="module")
def mapped():
    return make_mapped(600)


@pytest.fixture(scope="module")
def columns(mapped):
    return read_columns(mapped)


def test_columns_are_those_of_the_rows(mapped, columns):
    rows = mapped.to_list()
    assert columns.kind == "chats"
    assert columns.lengths.tolist() == [row["length"] for row in rows]
    assert columns.trained == sum(label != -100 for row in rows for label in row["labels"])
    records = [(number, record) for number, row in enumerate(rows) for record in row["media_info"]]
    media = columns.media
    assert len(media) == len(records)
    for position, (row, record) in enumerate(records):
        frames = record["frame_indices"]
        found = (media.row[position], media.item[position], media.tokens[position], media.frames[position])
        assert found == (row, record["item"], record["num_tokens"], len(frames or ()))
        assert media.of(record["modality"])[position]
        assert (media.width[position], media.samples[position]) == (record["width"] or 0, record["num_samples"] or 0)
    expected = [sum(record["num_tokens"] for record in row["media_info"]) for row in rows]
    assert columns.media_tokens.tolist() == expected


def test_columns_of_a_selection_and_of_other_formats(mapped, columns):
    chosen = mapped.select([5, 3, 400]).with_format("torch")
    assert read_columns(chosen).lengths.tolist() == columns.lengths[[5, 3, 400]].tolist()
    assert read_columns(chosen).media_tokens.tolist() == columns.media_tokens[[5, 3, 400]].tolist()
    assert len(read_columns(mapped.select([])).lengths) == 0


def test_histograms_hold_every_row_and_token(columns):
    found = length_histogram(columns)
    assert sum(found["rows"]) == len(columns.lengths)
    assert sum(found["media_tokens"]) == columns.media.tokens.sum()
    assert sum(found["text_tokens"]) + sum(found["media_tokens"]) == columns.lengths.sum()


@given(st.lists(st.floats(0, 1e7, allow_subnormal=False), min_size=1, max_size=60))
def test_bins_are_where_the_values_are(values):
    found = histogram(np.asarray(values))
    edges, last = found["edges"], len(found["counts"]) - 1
    assert sum(found["counts"]) == len(values)
    assert np.allclose(np.diff(edges), edges[1])
    for place, count in enumerate(found["counts"]):
        inside = [edges[place] <= one and (one < edges[place + 1] or place == last) for one in values]
        assert sum(inside) == count
    assert found["open_end"] or max(values) < edges[-1] * (1 + 1e-9)


@given(LENGTHS, st.integers(1, 70))
def test_padding_is_counted_exactly(lengths, batch_size):
    (found,) = padding_waste(lengths[:, None], [batch_size])
    order = np.random.default_rng(SEED).permutation(len(lengths))
    for name, rows in (("random", lengths[order].tolist()), ("sorted", sorted(lengths.tolist()))):
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        padded = sum(max(batch) * len(batch) for batch in batches)
        assert found[name] == pytest.approx(1 - sum(rows) / padded)


def test_padding_of_pairs_counts_both_sides():
    (found,) = padding_waste(np.array([[10, 6], [4, 8]]), [2])
    assert found["random"] == found["sorted"] == pytest.approx(1 - 28 / 40)


def test_packing_is_what_the_packer_does(mapped, columns):
    limit = int(columns.lengths.max())
    for found in packing_fill(columns.lengths, [limit, 1024]):
        fitting = mapped.select(np.flatnonzero(columns.lengths <= found["max_length"]))
        assert found["rows_packed"] == len(fitting)
        assert found["rows_too_long"] == 600 - len(fitting)
        for strategy in ("best_fit", "sequential"):
            plan = Packer(found["max_length"], strategy).plan(fitting)
            assert found[strategy] == pytest.approx(plan.fill)
            assert strategy != "best_fit" or found["packed_rows"] == len(plan)


def test_overflow_is_counted_exactly(mapped, columns):
    limit = 900
    (found,) = overflow_counts(columns.lengths, [limit], columns)
    above = [row for row in mapped.to_list() if row["length"] > limit]
    assert found["rows_above"] == len(above) > 0
    assert found["share_above"] == pytest.approx(len(above) / 600)
    assert found["tokens_above"] == sum(row["length"] for row in above)
    assert found["tokens_beyond"] == sum(row["length"] - limit for row in above)
    assert found["items_beyond"] == sum(item["end"] > limit for row in above for item in row["media_info"])
    text = [row["length"] - sum(item["num_tokens"] for item in row["media_info"]) for row in above]
    assert found["rows_of_text"] == sum(length > limit for length in text)
    unknown = overflow_counts(columns.lengths, [limit], None)[0]
    assert unknown["items_beyond"] is unknown["rows_of_text"] is None


@given(LENGTHS)
def test_the_suggestion_is_the_smallest_that_fits_enough(lengths):
    found = suggest_max_length(lengths)
    chosen = found["max_length"]
    assert chosen % MULTIPLE == 0
    assert found["rows_above"] == sum(length > chosen for length in lengths.tolist())
    assert found["share_kept"] >= KEPT_SHARE
    smaller = np.mean(lengths <= chosen - MULTIPLE)
    usual = next(one for one in range(MULTIPLE, 5000, MULTIPLE) if np.mean(lengths <= one) >= KEPT_SHARE)
    assert smaller < KEPT_SHARE or (found["rows_above"] == 0 and chosen <= 1.1 * usual)
    assert chosen in choose_max_lengths(lengths)


def test_quantiles_are_values_that_occur():
    found = quantiles(np.array([5, 1, 9, 7]))
    assert (found["min"], found["median"], found["p99"], found["max"], found["mean"]) == (1, 5, 9, 9, 5.5)
    assert quantiles(np.zeros(0)) is None
