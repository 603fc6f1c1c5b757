"""Padding against the processor's own call with the same padding."""

from __future__ import annotations

import pytest
import torch

from mmdatasets import auto_plugin
from mmdatasets.testing.processors import build_processor

from ..oracle import assert_same_tensors, oracle_messages

FAMILIES = ["qwen2_5_vl", "gemma3", "mllama", "internvl", "llava_next", "ernie4_5_vl"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [None, 64])
def test_padding_equals_the_processors(family, side, multiple, image_file) -> None:
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    texts = ["<image>What is this, and where?", "<image>This?"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    images = [[image_file(120, 90)], [image_file(90, 90)]]
    padding = {"padding": True, "padding_side": side} | ({"pad_to_multiple_of": multiple} if multiple else {})
    theirs = processor.apply_chat_template(
        [oracle_messages(chat, paths) for chat, paths in zip(chats, images, strict=True)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=padding,
    )
    mapped = plugin.transform({"messages": chats, "images": images})
    rows = [{name: column[index] for name, column in mapped.items()} for index in range(2)]
    ours = plugin.collator(padding_side=side, pad_to_multiple_of=multiple)(rows)
    assert multiple is None or ours["input_ids"].shape[1] % multiple == 0
    ignored = {"labels", "moe_mm_token_type_ids"}
    assert_same_tensors(ours, theirs, tuple(ignored))
    for name in {"labels", *ignored} & set(ours):
        assert ours[name].shape == ours["input_ids"].shape
    padded = ours["attention_mask"] == 0
    assert torch.all(ours["labels"][padded] == -100)


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_stay_aligned(side, qwen_plugin, qwen_rows) -> None:
    batch = qwen_plugin.collator(padding_side=side, pad_to_multiple_of=64)(list(qwen_rows))
    for index, row in enumerate(qwen_rows):
        real = batch["attention_mask"][index].bool()
        assert batch["input_ids"][index][real].tolist() == row["input_ids"]
        assert batch["labels"][index][real].tolist() == row["labels"]
