"""Bins: every row once, none above the capacity, little room left, and the strategies as they are described."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.transforms.bins import STRATEGIES, _best_fit_of_one, plan_bins
from mmdatasets.transforms.complete_bins import complete_bins

CAPACITY, MEDIA = 50, 20

rows = st.lists(st.tuples(st.integers(0, CAPACITY), st.integers(0, MEDIA)), max_size=80)


def arrays(sizes):
    pairs = np.array(sizes, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bounded", [False, True])
@given(sizes=rows)
def test_every_row_is_in_one_bin_and_no_bin_exceeds_its_capacities(strategy, bounded, sizes):
    lengths, media = arrays(sizes)
    plan = plan_bins(lengths, CAPACITY, strategy, media if bounded else None, MEDIA if bounded else None)
    bins = list(plan)
    assert sorted(row for rows in bins for row in rows) == list(range(len(sizes)))
    assert len(bins) == len(plan)
    for own in bins:
        assert own == sorted(own)
        assert own
        assert lengths[own].sum() <= CAPACITY
        assert not bounded or media[own].sum() <= MEDIA
    assert [own[0] for own in bins] == sorted(own[0] for own in bins)
    assert plan.fill == (lengths.sum() / (CAPACITY * len(bins)) if bins else 1)


def best_fit_one_by_one(lengths, media, max_media):
    """The textbook: rows in decreasing order, each into the bin that it leaves least room in."""
    share = np.maximum(lengths / CAPACITY, media / max_media if max_media else 0)
    bins = []
    for row in sorted(range(len(lengths)), key=lambda row: (-share[row], -lengths[row], row)):
        room = [
            (CAPACITY - lengths[own].sum(), -index)
            for index, own in enumerate(bins)
            if lengths[own].sum() + lengths[row] <= CAPACITY
            and (not max_media or media[own].sum() + media[row] <= max_media)
        ]
        if room:
            bins[-min(room)[1]].append(row)
        else:
            bins.append([row])
    return bins


def rooms_of(bins, lengths):
    return sorted(int(CAPACITY - lengths[own].sum()) for own in bins)


@given(sizes=st.lists(st.integers(1, CAPACITY), max_size=60))
def test_best_fit_leaves_the_room_that_the_textbook_leaves(sizes):
    lengths = np.array(sizes, np.int64)
    expected = best_fit_one_by_one(lengths, np.zeros_like(lengths), None)
    bin_of = _best_fit_of_one(lengths, CAPACITY)
    bins = [np.flatnonzero(bin_of == number) for number in range(len(expected))]
    assert rooms_of(bins, lengths) == rooms_of(expected, lengths)
    assert len(plan_bins(lengths, CAPACITY, "best_fit")) <= len(expected)


@given(sizes=rows)
def test_best_fit_of_two_sizes_needs_as_few_bins_as_the_textbook_or_nearly(sizes):
    # Bins with the same room for tokens differ in their room for media; the textbook takes any of them.
    lengths, media = arrays(sizes)
    expected = best_fit_one_by_one(lengths, media, MEDIA)
    assert len(plan_bins(lengths, CAPACITY, "best_fit", media, MEDIA)) <= 1.3 * len(expected) + 1


@given(sizes=rows, bounded=st.booleans())
def test_first_fit_is_the_textbooks(sizes, bounded):
    lengths, media = arrays(sizes)
    bins = []
    for row in range(len(sizes)):
        for own in bins:
            fits = lengths[own].sum() + lengths[row] <= CAPACITY
            if fits and (not bounded or media[own].sum() + media[row] <= MEDIA):
                own.append(row)
                break
        else:
            bins.append([row])
    plan = plan_bins(lengths, CAPACITY, "first_fit", media if bounded else None, MEDIA if bounded else None)
    assert list(plan) == bins


@given(sizes=rows)
def test_sequential_keeps_the_order(sizes):
    lengths, media = arrays(sizes)
    plan = plan_bins(lengths, CAPACITY, "sequential", media, MEDIA)
    assert plan.rows.tolist() == list(range(len(sizes)))
    for earlier, later in zip(list(plan), list(plan)[1:], strict=False):
        whole = [*earlier, later[0]]
        assert lengths[whole].sum() > CAPACITY or media[whole].sum() > MEDIA


@pytest.mark.parametrize("capacity", [4096, 8192, 32768])
@pytest.mark.parametrize(("mean", "spread"), [(5.5, 0.8), (6.5, 1.0), (7.0, 0.6)])
def test_realistic_lengths_fill_99_percent(capacity, mean, spread):
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(mean, spread, 30_000), 16, capacity).astype(np.int64)
    media = (lengths * 0.7 * rng.random(len(lengths)) * (rng.random(len(lengths)) < 0.7)).astype(np.int64)
    assert plan_bins(lengths, capacity, "best_fit").fill >= 0.99
    assert plan_bins(lengths, capacity, "best_fit", media, int(0.7 * capacity)).fill >= 0.99


@pytest.mark.parametrize("capacity", [4096, 8192, 16384])
@pytest.mark.parametrize(("mean", "spread"), [(5.0, 1.2), (5.5, 1.0), (6.3, 0.9)])
def test_rows_with_an_image_each_fill_99_percent(capacity, mean, spread):
    """576 tokens of LLaVA's, and a chat: none is small, so best fit alone leaves 2 to 5% at 4096 tokens."""
    generator = np.random.default_rng(0)
    lengths = np.minimum(576 + generator.lognormal(mean, spread, 50_000).astype(np.int64), capacity)
    plan = plan_bins(lengths, capacity, "best_fit")
    assert plan.fill > 0.99
    if capacity == 4096:
        assert _best_fit_of_one(lengths, capacity).max() + 1 > 1.015 * len(plan)


@given(lengths=st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80))
def test_completed_bins_are_bins(lengths):
    lengths = np.array(lengths)
    bin_of = complete_bins(lengths, CAPACITY)
    assert set(bin_of.tolist()) == set(range(bin_of.max() + 1))
    assert np.bincount(bin_of, lengths).max() <= CAPACITY
    assert plan_bins(lengths, CAPACITY, "best_fit").starts.size <= _best_fit_of_one(lengths, CAPACITY).max() + 2


@settings(max_examples=20)
@given(sizes=rows)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_lengths_give_the_same_bins(strategy, sizes):
    lengths, media = arrays(sizes)
    first = plan_bins(lengths, CAPACITY, strategy, media, MEDIA)
    assert list(first) == list(plan_bins(lengths.copy(), CAPACITY, strategy, media.copy(), MEDIA))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bins_that_have_room_of_one_kind_alone_are_not_all_looked_at(strategy):
    """Long rows without media, and rows of media, leave such bins by turns: the time must not grow with the square."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4097, 40_000)
    media = np.where(rng.random(len(lengths)) < 0.7, np.minimum(lengths * 17 // 20, 2048), 0)
    start = time.process_time()
    plan = plan_bins(lengths, 4096, strategy, media, 2048)
    assert time.process_time() - start < 4
    assert plan.fill > (0.6 if strategy == "sequential" else 0.82)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_million_lengths_take_seconds(strategy):
    lengths = np.clip(np.random.default_rng(0).lognormal(6.5, 0.9, 1_000_000), 16, 4096).astype(np.int64)
    start = time.process_time()
    plan_bins(lengths, 4096, strategy)
    assert time.process_time() - start < 10
