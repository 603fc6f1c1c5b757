"""Attention masks of packed sequences, each of which sees itself alone: dense ones, and those of FlexAttention."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_TILE = 128
"""Tokens on a side of the blocks that FlexAttention computes or skips."""


@dataclass(frozen=True, slots=True)
class LayerRule:
    """What a token sees of its own sequence in one kind of layers.

    Attributes:
        window: How many tokens back it sees, itself included; all when `None`.
        chunk: It sees none before the last multiple of this position; all when `None`.
        blocks: Whether the tokens of a block, an image's say, see one another in both directions.
    """

    window: int | None = None
    chunk: int | None = None
    blocks: bool = False


@dataclass(frozen=True, eq=False)
class SequenceMask:
    """Which token sees which, for FlexAttention's `mask_mod`. It pickles, and moves with its tensors.

    Attributes:
        sequence: `(length,)` the number of each token's sequence, rising.
        position: `(length,)` each token's place in its sequence.
        block: `(length,)` the number of each token's block, rising; -1 for none.
        rule: What it sees of its sequence.
    """

    sequence: torch.Tensor
    position: torch.Tensor
    block: torch.Tensor
    rule: LayerRule

    @classmethod
    def of(cls, lengths: Sequence[int], block: torch.Tensor | None, rule: LayerRule) -> SequenceMask:
        """Makes it from the sequences' lengths and `block`, which may be `None` where there are none."""
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        position = torch.cat([torch.arange(length) for length in lengths])
        return cls(sequence, position, torch.full_like(sequence, -1) if block is None else block, rule)

    def __call__(
        self, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        """Whether the tokens at `query` see those at `key`; the two broadcast."""
        rule, at, seen = self.rule, self.position[query], self.position[key]
        allowed = at >= seen
        if rule.blocks:
            allowed = allowed | ((self.block[query] == self.block[key]) & (self.block[query] >= 0))
        if rule.window is not None:
            allowed = allowed & (seen > at - rule.window)
        if rule.chunk is not None:
            allowed = allowed & (at // rule.chunk == seen // rule.chunk)
        return allowed & (self.sequence[query] == self.sequence[key])


class LayerMasks(dict[str, "torch.Tensor | BlockMask"]):
    """Masks by kind of layer, as models that have several kinds take them."""

    def sum(self) -> torch.Tensor:
        """The number of tokens: trainers ask an `attention_mask` for its sum when they count those they have seen."""
        mask = next(iter(self.values()))
        return mask.new_tensor(mask.shape[-1], dtype=torch.int64) if isinstance(mask, torch.Tensor) else mask.sum()  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class _TokenCount:
    """The `sum` of a `BlockMask`, which has none of its own."""

    sequence: torch.Tensor

    def __call__(self) -> torch.Tensor:
        return self.sequence.new_tensor(len(self.sequence))


def dense_mask(lengths: Sequence[int], block: torch.Tensor | None, rule: LayerRule) -> torch.Tensor:
    """The mask in full: `(1, 1, length, length)`, `torch.bool`, true where a token is seen.

    Args:
        lengths: Tokens of each sequence.
        block: `(length,)` the number of each token's block, rising; -1 for none.
        rule: What a token sees of its sequence.
    """
    total = sum(lengths)
    sees = SequenceMask.of(lengths, block, rule)
    mask = torch.zeros((total, total), dtype=torch.bool)
    none = torch.zeros((), dtype=torch.int64)
    start = 0
    for length in lengths:  # elsewhere there is nothing to compute
        own = torch.arange(start, start + length)
        mask[start : start + length, start : start + length] = sees(none, none, own[:, None], own[None])
        start += length
    return mask[None, None]


def additive(mask: torch.Tensor) -> torch.Tensor:
    """A boolean mask as what eager attention adds to its scores: 0 where a token is seen, else float32's minimum."""
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def block_mask(lengths: Sequence[int], block: torch.Tensor | None, rule: LayerRule) -> BlockMask:
    """The mask for FlexAttention, made without looking at every pair of tokens.

    Args:
        lengths: Tokens of each sequence.
        block: `(length,)` the number of each token's block, rising and each in one piece; -1 for none.
        rule: What a token sees of its sequence.
    """
    from torch.nn.attention.flex_attention import BlockMask

    sees = SequenceMask.of(lengths, block, rule)
    total = len(sees.sequence)
    first = torch.arange(0, total, _TILE)
    last = (first + _TILE - 1).clamp(max=total - 1)
    some, whole = _tiles(sees, first, last)
    partial = some & ~whole
    made: BlockMask = BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(whole), BLOCK_SIZE=_TILE, mask_mod=sees, seq_lengths=(total, total)
    )
    made.sum = _TokenCount(sees.sequence)  # type: ignore[attr-defined]
    return made


def _tiles(sees: SequenceMask, first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tiles (of queries, of keys) may have a pair that sees, and which have no other; the first may be more."""
    rule, sequence, block = sees.rule, sees.sequence, sees.block
    query_first, query_last, key_first, key_last = first[:, None], last[:, None], first[None], last[None]
    shared = (sequence[query_last] >= sequence[key_first]) & (sequence[key_last] >= sequence[query_first])
    some = shared & (key_first <= query_last)
    whole = (key_last <= query_first) & (sequence[key_first] == sequence[query_last])
    if rule.blocks:  # a block that reaches from one tile into a later one
        some |= shared & (block[query_last] >= 0) & (block[query_last] == block[key_first])
    if rule.window is not None:
        some &= query_first - key_last < rule.window
        whole &= query_last - key_first < rule.window
    if rule.chunk is not None:
        chunk = sees.position // rule.chunk
        whole &= chunk[query_last] == chunk[key_first]
    return some, whole


def _listed(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tiles of keys each tile of queries has, and which, those first: `(1, 1, n)` and `(1, 1, n, n)`."""
    counts = tiles.sum(dim=1).to(torch.int32)
    order = torch.argsort(tiles.to(torch.int32), dim=1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None].contiguous()


def map_block_mask(mask: BlockMask, change: Callable[[torch.Tensor], torch.Tensor]) -> BlockMask:
    """The same mask with every tensor changed, those of its `SequenceMask` too: moved to a device, say."""
    changed = copy.copy(mask)
    for name, value in vars(mask).items():
        if isinstance(value, torch.Tensor):
            setattr(changed, name, change(value))
    sees = mask.mask_mod
    if isinstance(sees, SequenceMask):
        changed.mask_mod = SequenceMask(change(sees.sequence), change(sees.position), change(sees.block), sees.rule)
        changed.sum = _TokenCount(changed.mask_mod.sequence)  # type: ignore[attr-defined]
    return changed
