"""Batches under a budget of tokens and of media, the same for every run, rank and resumption."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from torch.utils.data import Sampler

from mmdatasets.transforms.row_costs import check_limit, media_tokens_of, row_lengths_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from datasets import Dataset

    IntArray = npt.NDArray[np.int64]

_POOL_ROWS = 2048
_TRIES = 16


class MediaBudgetBatchSampler(Sampler[list[int]]):
    """Batches of as many rows as fit a budget, for `DataLoader(batch_sampler=...)`.

    Rows of similar length are put together, so that little is padding; which rows and in which order depends on the
    seed and the epoch alone. In an epoch every row is in one batch. All ranks have the same number of batches, and
    every epoch has as many: where there are too few to share, batches with many rows are divided; only where no batch
    has more than one row, at most `num_replicas - 1` of them are given twice.

    `set_epoch` chooses the epoch; trainers call it.

    Args:
        lengths: Tokens of each row.
        media: Media tokens of each row, which is what the model's encoders have to do; needed for `max_patches`.
        max_tokens: The most tokens of a batch, padding included: its longest row times its number of rows.
        max_patches: The most media tokens of a batch, `num_tokens` of `media_info`: patches, as the language model
            gets them. (In Qwen2-VL, each is four patches of the image encoder.)
        max_rows: The most rows of a batch.
        pad_to_multiple_of: The collator's, which counts for `max_tokens`.
        shuffle: Whether rows are in random order; else in the dataset's.
        seed: Of the order. The same on all ranks.
        num_replicas: How many ranks there are.
        rank: Whose batches these are. `None`: those of all ranks, in turn, as `accelerate` and `Trainer` distribute
            them.

    Raises:
        CollateError: If a row exceeds a budget by itself. Names it.
        ValueError: If there is no budget, or an argument makes no sense.
    """

    batch_size = None  # what accelerate asks of a sampler whose batches differ in their number of rows
    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int] | IntArray,
        media: Sequence[int] | IntArray | None = None,
        *,
        max_tokens: int | None = None,
        max_patches: int | None = None,
        max_rows: int | None = None,
        pad_to_multiple_of: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int | None = None,
    ) -> None:
        budgets = {"max_tokens": max_tokens, "max_patches": max_patches, "max_rows": max_rows}
        _check_arguments(budgets, pad_to_multiple_of, num_replicas, rank)
        if max_patches is not None and media is None:
            raise ValueError("max_patches needs the media tokens of each row; MediaBudgetBatchSampler.of reads them")
        self._lengths = -(-np.asarray(lengths, dtype=np.int64) // pad_to_multiple_of) * pad_to_multiple_of
        self._media = np.zeros_like(self._lengths) if media is None else np.asarray(media, dtype=np.int64)
        if len(self._media) != len(self._lengths):
            raise ValueError(f"{len(self._lengths)} lengths but {len(self._media)} numbers of media tokens")
        if not len(self._lengths):
            raise ValueError("there are no rows to make batches of")
        self._max_tokens, self._max_patches, self._max_rows = max_tokens, max_patches, max_rows
        self._check_rows()
        self.shuffle, self.seed = shuffle, seed
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch = 0
        self._done = self._resume_at = 0
        self._loaded = False  # whether the next iteration is the one that a state was loaded for
        first = self._fill(self._order(0, 0))
        self._steps = -(-len(first) // num_replicas)
        self._first = first
        self._planned: tuple[int, list[list[int]]] | None = None

    @classmethod
    def of(cls, dataset: Dataset, **settings: int | bool | None) -> Self:
        """Makes the sampler of a mapped dataset, by its columns `length` and `media_info`.

        Args:
            dataset: What a plugin's transform made.
            **settings: The other arguments.

        Raises:
            CollateError: If a column is missing, or a row exceeds a budget.
            ValueError: As the class itself.
        """
        media = None if settings.get("max_patches") is None else media_tokens_of(dataset)
        return cls(row_lengths_of(dataset), media, **settings)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self._steps if self.rank is not None else self._steps * self.num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        start, self._resume_at, self._loaded = self._resume_at, 0, False
        batches = self.batches(self.epoch)
        for index in range(start * len(batches) // self._steps, len(batches)):
            self._done = (index + 1) * self._steps // len(batches)
            yield list(batches[index])

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, of this rank if there is one: the row numbers of each."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        planned = self._planned[1]
        return planned if self.rank is None else planned[self.rank :: self.num_replicas]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration goes through.

        Raises:
            ValueError: If it is one before that of a state that was just loaded, which would be lost. Loaders of
                accelerate count epochs themselves, from 0 in a new process, and set theirs when they are iterated.
        """
        if self._loaded and epoch < self.epoch:
            raise ValueError(
                f"set_epoch({epoch}) after a state of epoch {self.epoch} was loaded: the training would start over. "
                f"With accelerate, call set_epoch({self.epoch}) of the prepared loader before iterating over it; for "
                "Trainer load no state, as train(resume_from_checkpoint=...) skips what was trained on by itself"
            )
        if epoch != self.epoch:
            self.epoch, self._done, self._resume_at = epoch, 0, 0

    @property
    def sampler(self) -> Self:
        """Itself: accelerate sets the epoch of a batch sampler's sampler."""
        return self

    def state_dict(self, steps: int | None = None) -> dict[str, int | str]:
        """Where the iteration is.

        Args:
            steps: How many batches of the epoch each rank has trained on. As many as were handed out when `None`,
                which are more where batches are made in advance: by the workers of a `DataLoader`, and one by
                loaders of accelerate.

        Returns:
            The same on all ranks.
        """
        return {"epoch": self.epoch, "steps": self._done if steps is None else steps, "digest": self._digest()}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Has the next iteration go on where another one was.

        For plain loaders, and for those of accelerate, whose `set_epoch` must then be called with `state["epoch"]`.
        `Trainer` needs no state: `train(resume_from_checkpoint=...)` skips the batches that it has trained on.

        Raises:
            ValueError: If the state is of other rows, budgets, seed or number of ranks, whose batches would differ.
        """
        if state["digest"] != self._digest():
            raise ValueError(
                "the state is that of a sampler of other rows, budgets, seed or num_replicas, whose batches are "
                "others: make the sampler as it was made then"
            )
        self.epoch = int(state["epoch"])
        self._done = self._resume_at = int(state["steps"])
        self._loaded = True

    # ------------------------------------------------------------------------------------------------- the plan

    def _plan(self, epoch: int) -> list[list[int]]:
        """All ranks' batches, in turn."""
        batches, wanted = self._filled(epoch), self._steps * self.num_replicas
        batches = _divided(batches, wanted)
        batches += [list(batches[index % len(batches)]) for index in range(wanted - len(batches))]
        if not self.shuffle:
            return batches
        # What is trained in one step is of similar length, so that no rank waits long for another one.
        order = np.random.default_rng([self.seed, epoch, _TRIES]).permutation(self._steps)
        size = self.num_replicas
        return [batch for step in order.tolist() for batch in batches[step * size : (step + 1) * size]]

    def _filled(self, epoch: int) -> list[list[int]]:
        """An epoch's batches, no more than the first epoch has: as many are counted on."""
        if epoch == 0 or not self.shuffle:
            return self._first
        for attempt in range(_TRIES):
            batches = self._fill(self._order(epoch, attempt))
            if len(batches) <= self._steps * self.num_replicas:
                return batches
        return self._first

    def _order(self, epoch: int, attempt: int) -> IntArray:
        """The rows as batches are filled with them: shuffled, then sorted by length within pools."""
        if not self.shuffle:
            return np.arange(len(self._lengths))
        order = np.random.default_rng([self.seed, epoch, attempt]).permutation(len(self._lengths))
        pools = [order[start : start + _POOL_ROWS] for start in range(0, len(order), _POOL_ROWS)]
        return np.concatenate([pool[np.argsort(-self._lengths[pool], kind="stable")] for pool in pools])

    def _fill(self, order: IntArray) -> list[list[int]]:
        rows = zip(order.tolist(), self._lengths[order].tolist(), self._media[order].tolist(), strict=True)
        batches: list[list[int]] = []
        longest = patches = 0
        for row, length, media in rows:
            if batches and self._fits(len(batches[-1]) + 1, max(longest, length), patches + media):
                batches[-1].append(row)
                longest, patches = max(longest, length), patches + media
            else:
                batches.append([row])
                longest, patches = length, media
        return batches

    def _fits(self, rows: int, longest: int, patches: int) -> bool:
        return (
            (self._max_tokens is None or rows * longest <= self._max_tokens)
            and (self._max_patches is None or patches <= self._max_patches)
            and (self._max_rows is None or rows <= self._max_rows)
        )

    def _check_rows(self) -> None:
        for name, limit, sizes, what in (
            ("max_tokens", self._max_tokens, self._lengths, "tokens"),
            ("max_patches", self._max_patches, self._media, "media tokens"),
        ):
            if limit is not None:
                remedy = "{raised}, or leave out such rows (dataset.filter)"
                check_limit(name, limit, sizes, what, range(len(sizes)), remedy)

    def _digest(self) -> str:
        settings = (self._max_tokens, self._max_patches, self._max_rows, self.shuffle, self.seed, self.num_replicas)
        parts = (self._lengths.tobytes(), self._media.tobytes(), repr(settings).encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _divided(batches: Sequence[Sequence[int]], wanted: int) -> list[list[int]]:
    """The batches, those with most rows halved until there are as many as wanted, or all have one row."""
    # The place of a batch is a path of halves, so that the halves stay where the whole was.
    heap: list[tuple[int, tuple[int, ...], list[int]]] = [
        (-len(batch), (index,), list(batch)) for index, batch in enumerate(batches)
    ]
    heapq.heapify(heap)
    while len(heap) < wanted and -heap[0][0] > 1:
        place, batch = heapq.heappop(heap)[1:]
        middle = -(-len(batch) // 2)
        for half, part in enumerate((batch[:middle], batch[middle:])):
            heapq.heappush(heap, (-len(part), (*place, half), part))
    return [batch for _, _, batch in sorted(heap, key=lambda entry: entry[1])]


def _check_arguments(budgets: Mapping[str, int | None], multiple: int, num_replicas: int, rank: int | None) -> None:
    if all(limit is None for limit in budgets.values()):
        raise ValueError("a budget is needed: max_tokens, max_patches or max_rows")
    for name, number in {**budgets, "pad_to_multiple_of": multiple, "num_replicas": num_replicas}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be positive, got {number}")
    if rank is not None and not 0 <= rank < num_replicas:
        raise ValueError(f"rank must be one of 0 to {num_replicas - 1}, got {rank}")
