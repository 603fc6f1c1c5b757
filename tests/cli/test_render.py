"""Rows in readable form, with the tokenizer and rows of the real map stage."""

from __future__ import annotations

import re

import pytest
import torch
from rich.console import Console

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.cli.render import batch_table, render_row
from mmdatasets.testing import build_processor
from mmdatasets.testing.media import make_image


@pytest.fixture(scope="module")
def processor():
    return build_processor("qwen2_vl")


@pytest.fixture(scope="module")
def row(processor):
    plugin = auto_plugin(processor, options=MediaOptions(image_max_pixels=128 * 128))
    messages = [
        {"role": "user", "content": "<image>What is [bold]this[/bold]? <image>"},
        {"role": "assistant", "content": "A dög!"},
        {"role": "user", "content": "And that?"},
        {"role": "assistant", "content": "A cat."},
    ]
    images = [make_image(112, 112), make_image(200, 56)]
    batch = plugin.transform({"messages": [messages], "images": [images]})
    return {name: column[0] for name, column in batch.items()}


def test_text_is_complete_and_media_runs_are_collapsed(row, processor):
    text = render_row(row, processor.tokenizer).plain
    sizes = [(item["width"], item["height"], item["num_tokens"]) for item in row["media_info"]]
    assert [size[:2] for size in sizes] == [(112, 112), (200, 56)]
    restored = text.replace("[[", "").replace("]]", "")
    for number, (width, height, tokens) in enumerate(sizes, start=1):
        run = f"<|image_pad|> x {tokens:,} (image {number}: {width}x{height} pixels)"
        assert run in restored
        restored = restored.replace(run, "<|image_pad|>" * tokens)
    assert restored == processor.tokenizer.decode(row["input_ids"])


def test_trained_tokens_are_between_the_marks(row, processor):
    text = render_row(row, processor.tokenizer).plain
    marked = re.findall(r"\[\[(.*?)\]\]", text, flags=re.DOTALL)
    assert [part.strip() for part in marked] == ["A dög!<|im_end|>", "A cat.<|im_end|>"]
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert "".join(marked) == processor.tokenizer.decode(trained)


def test_a_row_cut_inside_no_media_still_renders(row, processor):
    cut = {**row, "input_ids": row["input_ids"][-5:], "labels": row["labels"][-5:], "media_info": []}
    assert render_row(cut, processor.tokenizer).plain.count("[[") == 1


def test_batch_table_lists_every_tensor():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(
            batch_table({"input_ids": torch.zeros(2, 7, dtype=torch.int64), "pixel_values": torch.zeros(8, 3)})
        )
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines == [
        ["name", "shape", "dtype"],
        ["input_ids", "(2,", "7)", "torch.int64"],
        ["pixel_values", "(8,", "3)", "torch.float32"],
    ]
