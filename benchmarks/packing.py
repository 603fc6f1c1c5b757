"""Packing: how long it takes to plan, how full packed rows are, and how much of a padded batch is padding.

  plan    best fit, first fit and sequential, over lengths alone, and with a second bound on media tokens
  fill    which part of what a model computes are tokens: of rows padded in random order, sorted by length within
          pools (`group_by_length`), batched under a budget (`MediaBudgetBatchSampler`), and packed

Lengths are log-normal, clipped to `--max-length`, as those of chats with images are; with `--image-tokens` none is
shorter than an image of a fixed size. No row is read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mmdatasets import MediaBudgetBatchSampler
from mmdatasets.transforms.bins import STRATEGIES, plan_bins

POOL = 50
"""Batches that `group_by_length` sorts together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one way of making batches: the part of its tokens that are no padding."""

    case: str
    contestant: str
    batches: int
    fill: float
    seconds: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000, help="lengths to plan (default: %(default)s)")
    options.add_argument("--max-length", type=int, default=4096, help="tokens of a packed row (default: %(default)s)")
    options.add_argument("--mean", type=float, default=6.3, help="mean of the lengths' logarithm")
    options.add_argument("--spread", type=float, default=0.9, help="standard deviation of the lengths' logarithm")
    options.add_argument("--image-tokens", type=int, default=0, help="tokens of an image that every row has besides")
    options.add_argument("--batch-size", type=int, default=8, help="rows of a padded batch (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tiny", action="store_true", help="few rows, to see that it runs")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    args = options.parse_args()
    rows = 2_000 if args.tiny else args.rows
    lengths, media = draw(rows, args.mean, args.spread, args.max_length, args.seed, args.image_tokens)
    outcomes = [
        *plans(lengths, media, args.max_length),
        *fills(lengths, args.max_length, args.batch_size, args.seed),
    ]
    if args.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=1))
        return
    print(f"{rows:,} rows of {lengths.mean():.0f} tokens on average, {args.max_length} at most")
    for one in outcomes:
        print(f"{one.case:5} {one.contestant:38} {one.batches:9,} batches {one.fill:8.2%} full {one.seconds:8.2f} s")


def draw(
    rows: int, mean: float, spread: float, max_length: int, seed: int, image_tokens: int = 0
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Lengths of rows, and how many of their tokens are media: none in three of ten rows."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(image_tokens + generator.lognormal(mean, spread, rows), 16, max_length).astype(np.int64)
    share = generator.random(rows) * (generator.random(rows) < 0.7)
    return lengths, (lengths * 0.7 * share).astype(np.int64)


def plans(lengths: np.ndarray, media: np.ndarray, max_length: int) -> Iterator[Outcome]:  # type: ignore[type-arg]
    """Every strategy, with one bound and with two."""
    for strategy in STRATEGIES:
        for bound in (None, int(0.7 * max_length)):
            start = time.perf_counter()
            plan = plan_bins(lengths, max_length, strategy, None if bound is None else media, bound)
            seconds = time.perf_counter() - start
            name = strategy if bound is None else f"{strategy}, max_patches={bound}"
            yield Outcome("plan", name, len(plan), plan.fill, seconds)


def fills(lengths: np.ndarray, max_length: int, batch_size: int, seed: int) -> Iterator[Outcome]:  # type: ignore[type-arg]
    """What is padding in batches of equally many rows, of a budget, and of packed rows of the same size."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    pools = [order[start : start + POOL * batch_size] for start in range(0, len(order), POOL * batch_size)]
    grouped = np.concatenate([pool[np.argsort(-lengths[pool], kind="stable")] for pool in pools])
    for name, rows in (("padded, in random order", order), ("padded, grouped by length", grouped)):
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        yield _padded(name, lengths, batches, 0.0)
    budget = batch_size * max_length
    start = time.perf_counter()
    sampler = MediaBudgetBatchSampler(lengths, max_tokens=budget, seed=seed)
    yield _padded(f"padded, under {budget:,} tokens", lengths, list(sampler), time.perf_counter() - start)
    start = time.perf_counter()
    plan = plan_bins(lengths, max_length, "best_fit")
    yield Outcome("fill", "packed, best_fit", len(plan), 1.0, time.perf_counter() - start)


def _padded(name: str, lengths: np.ndarray, batches: Sequence[Sequence[int]], seconds: float) -> Outcome:  # type: ignore[type-arg]
    computed = sum(int(lengths[rows].max()) * len(rows) for rows in batches)
    return Outcome("fill", name, len(batches), float(lengths.sum() / computed), seconds)


if __name__ == "__main__":
    main()
