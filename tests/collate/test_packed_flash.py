"""transformers' own FlashAttention path on packed batches, its kernels replaced by a loop over sequences.

The kernels need a GPU. All that decides on the isolation is transformers' code, and the lengths that the batch gives
it.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, modeling_flash_attention_utils, modeling_utils
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.modeling_flash_attention_utils import _pad_input, _unpad_input

from mmdatasets.testing.inputs import model_inputs
from tests.collate.packing_cases import SUBJECTS, packing_run

FAST = ["kimi_k25", "qwen2_5_vl"]
NAME = "flash_loop"  # by "flash" models recognise it


def attend(query, key, value, causal=False, softmax_scale=None, window_size=(-1, -1), **_):
    """Attention within one sequence: `(length, heads, width)`."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    places = torch.arange(query.shape[2])
    mask = torch.ones(len(places), len(places), dtype=torch.bool)
    if causal:
        mask = places[:, None] >= places
    if window_size[0] >= 0:
        mask = mask & (places[:, None] - places <= window_size[0])
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=softmax_scale)[0].transpose(0, 1)


def attend_rows(query, key, value, **settings):
    return torch.stack([attend(*parts, **settings) for parts in zip(query, key, value, strict=True)])


@pytest.fixture
def kernels(monkeypatch):
    """How often which lengths were given to the kernel that takes them."""
    seen = []

    def attend_sequences(query, key, value, cu_seqlens_q, cu_seqlens_k, **settings):
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        bounds = cu_seqlens_q.tolist()
        assert bounds == cu_seqlens_k.tolist()
        assert bounds[-1] == len(query)
        seen.append(bounds)
        parts = pairwise(bounds)
        return torch.cat([attend(query[a:b], key[a:b], value[a:b], **settings) for a, b in parts])

    def settings_of(query_length, key_length, is_causal, softmax_scale=None, sliding_window=None, **_):
        window = {} if sliding_window is None else {"window_size": (sliding_window - 1, sliding_window - 1)}
        return {"causal": is_causal, "softmax_scale": softmax_scale, **window}

    def load(*_, **__):
        return (attend_rows, attend_sequences, None, _pad_input, _unpad_input), (settings_of, settings_of)

    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", load)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", load)
    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, flash_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, NAME, flash_attention_mask)
    return seen


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in FAST else [pytest.mark.slow]) for one in sorted(SUBJECTS)]
)
def test_flash_attention_computes_what_sdpa_does(name, media_folder, kernels) -> None:
    run = packing_run(name, media_folder)
    subject = run.subject
    if "varlen" not in run.plugin.isolation(run.model.config).ways:
        pytest.skip("has no attention='varlen'")
    model = subject.build_model(subject.processor)
    batch = run.plugin.packed_collator(model.config, flatten=True)(run.mapped)
    with torch.no_grad():
        theirs = run.model(**model_inputs(run.model, batch)).logits
        model.set_attn_implementation(NAME)
        ours = model(**model_inputs(model, batch)).logits
    lengths = torch.tensor([0, *(len(row["input_ids"]) for row in run.mapped)]).cumsum(0).tolist()
    assert lengths in kernels  # the text part had the boundaries
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_window_and_the_boundaries_hold_together(media_folder, kernels) -> None:
    run = packing_run("mistral3", media_folder)
    subject = run.subject
    logits = []
    for implementation in ("sdpa", NAME):
        model = subject.build_model(subject.processor)
        model.config.get_text_config().sliding_window = 7
        model.set_attn_implementation(implementation)
        batch = run.plugin.packed_collator(model.config, flatten=True)(run.mapped)
        with torch.no_grad():
            logits.append(model(**model_inputs(model, batch)).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
