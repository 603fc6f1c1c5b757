"""Masks of packed sequences: those that transformers makes, and FlexAttention's equal to the dense ones."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.masking_utils import (
    create_causal_mask,
    create_chunked_causal_mask,
    create_sliding_window_causal_mask,
)
from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model, get_block_sequence_ids_for_mask

from mmdatasets.collate.batch import map_tensors
from mmdatasets.collate.masks import LayerRule, additive, block_mask, dense_mask

lengths_of = st.lists(st.integers(1, 300), min_size=1, max_size=6)


def positions(lengths):
    return torch.cat([torch.arange(length) for length in lengths])[None]


@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=5), size=st.integers(1, 8))
@pytest.mark.parametrize("kind", ["full", "window", "chunk"])
def test_dense_masks_are_transformers_own(kind, lengths, size) -> None:
    config = LlamaConfig(attn_implementation="sdpa")
    config.sliding_window = config.attention_chunk_size = size
    make = {
        "full": create_causal_mask,
        "window": create_sliding_window_causal_mask,
        "chunk": create_chunked_causal_mask,
    }[kind]
    embedded = torch.zeros(1, sum(lengths), 4)
    theirs = make(config, embedded, None, None, position_ids=positions(lengths))
    rule = LayerRule(size if kind == "window" else None, size if kind == "chunk" else None)
    assert torch.equal(dense_mask(lengths, None, rule), theirs.expand(1, 1, -1, -1))


@given(rows=st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=10), min_size=1, max_size=4))
def test_blocks_see_themselves_as_in_gemma3_row_by_row(rows) -> None:
    config = Gemma3TextConfig(attn_implementation="sdpa", sliding_window=4)
    lengths = [len(row) for row in rows]
    blocks, count = [], 0
    start = 0
    for kind, rule in (
        ("full_attention", LayerRule(None, None, True)),
        ("sliding_attention", LayerRule(4, None, True)),
    ):
        blocks, count, start = [], 0, 0
        own = []
        for row in rows:
            types = torch.tensor([row])
            ids = get_block_sequence_ids_for_mask(types)
            blocks.append(torch.where(ids[0] >= 0, ids[0] + count, -1))
            count += int(ids.max()) + 1
            embedded = torch.zeros(1, len(row), 4)
            own.append(create_masks_for_vision_model(config, embedded, None, None, None, ids)[kind])
        ours = dense_mask(lengths, torch.cat(blocks), rule)
        for length, theirs in zip(lengths, own, strict=True):
            part = ours[..., start : start + length, start : start + length]
            assert torch.equal(part, theirs if theirs is not None else torch.ones_like(part).tril())
            start += length
        assert int(ours.sum()) == sum(
            int(ours[..., a : a + n, a : a + n].sum())
            for a, n in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), lengths, strict=False)
        )


@given(
    lengths=lengths_of,
    window=st.none() | st.integers(1, 200),
    chunk=st.none() | st.integers(1, 200),
    marks=st.lists(st.booleans(), min_size=1, max_size=12),
    blocks=st.booleans(),
)
def test_flex_masks_are_the_dense_ones(lengths, window, chunk, marks, blocks) -> None:
    total = sum(lengths)
    block = None
    if blocks:  # runs of many tokens, which end with their sequences
        run = torch.arange(total) * len(marks) // total
        sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        block = torch.where(torch.tensor(marks)[run], sequence * len(marks) + run, -1)
    rule = LayerRule(window, chunk, blocks)
    made = block_mask(lengths, block, rule)
    dense = dense_mask(lengths, block, rule)
    assert torch.equal(create_mask(made.mask_mod, 1, 1, total, total, device="cpu"), dense)
    assert torch.equal(seen_by_tiles(made, total), dense[0, 0])


def seen_by_tiles(mask, total):
    """What the tiles show: all of the whole ones, of the others what `mask_mod` says."""
    size = mask.BLOCK_SIZE[0]
    seen = torch.zeros(-(-total // size) * size, -(-total // size) * size, dtype=torch.bool)
    pairs = create_mask(mask.mask_mod, 1, 1, total, total, device="cpu")[0, 0]
    for counts, indices, whole in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        for query, count in enumerate(counts[0, 0].tolist()):
            for key in indices[0, 0, query, :count].tolist():
                rows, columns = slice(query * size, (query + 1) * size), slice(key * size, (key + 1) * size)
                seen[rows, columns] = (
                    True
                    if whole
                    else torch.nn.functional.pad(
                        pairs[rows, columns],
                        (0, size - pairs[rows, columns].shape[1], 0, size - pairs[rows, columns].shape[0]),
                    )
                )
    return seen[:total, :total]


def test_far_tiles_are_skipped_and_inner_ones_whole() -> None:
    made = block_mask([1024, 1024], None, LayerRule())
    assert made.kv_num_blocks.sum().item() == 16  # the diagonal
    assert made.full_kv_num_blocks.sum().item() == 2 * 28


def test_flex_masks_pickle_and_move() -> None:
    made = block_mask([200, 100], None, LayerRule(window=50))
    copied = pickle.loads(pickle.dumps(made))
    assert torch.equal(copied.kv_indices, made.kv_indices)
    assert torch.equal(copied.mask_mod.sequence, made.mask_mod.sequence)
    moved = map_tensors({"attention_mask": {"full_attention": made}}, lambda tensor: tensor.to("meta"))
    mask = moved["attention_mask"]["full_attention"]
    assert mask.kv_indices.device.type == mask.mask_mod.position.device.type == "meta"
    assert made.mask_mod.position.device.type == "cpu"


def test_additive_masks_hide_what_boolean_ones_do() -> None:
    mask = dense_mask([2, 1], None, LayerRule())
    added = additive(mask)
    assert added.dtype == torch.float32
    assert torch.equal(added == 0, mask)
