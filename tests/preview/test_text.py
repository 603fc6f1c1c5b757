"""Rows in readable form, with the tokenizer and rows of the real map stage."""

from __future__ import annotations

import re

import pytest
import torch
from rich.console import Console

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.preview.build import gather, list_tensors
from mmdatasets.preview.text import sequence_text, tensor_table
from mmdatasets.testing import build_processor
from mmdatasets.testing.media import make_image


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(image_max_pixels=128 * 128))


@pytest.fixture(scope="module")
def row(plugin):
    messages = [
        {"role": "user", "content": "<image>What is [bold]this[/bold]? <image>"},
        {"role": "assistant", "content": "A dög!"},
        {"role": "user", "content": "And that?"},
        {"role": "assistant", "content": "A cat."},
    ]
    images = [make_image(112, 112), make_image(200, 56)]
    batch = plugin.transform({"messages": [messages], "images": [images]})
    return {name: column[0] for name, column in batch.items()}


def text_of(plugin, row):
    return sequence_text(gather(plugin, row, decode=False).rows[0].sequences[0]).plain


def test_text_is_complete_and_media_is_collapsed(row, plugin):
    restored = text_of(plugin, row).replace("[[", "").replace("]]", "")
    tokenizer = plugin.engine.tokenizer
    for info in row["media_info"]:
        label = re.search(r"<image: ([\d,]+) tokens, \d+x\d+ grid>", restored)
        assert int(label[1].replace(",", "")) == info["num_tokens"]
        restored = restored.replace(label[0], tokenizer.decode(row["input_ids"][info["start"] : info["end"]]), 1)
    assert restored == tokenizer.decode(row["input_ids"])


def test_trained_tokens_are_between_the_marks(row, plugin):
    marked = re.findall(r"\[\[(.*?)\]\]", text_of(plugin, row), flags=re.DOTALL)
    assert [part.strip() for part in marked] == ["A dög!<|im_end|>", "A cat.<|im_end|>"]
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert "".join(marked) == plugin.engine.tokenizer.decode(trained)


def test_a_row_cut_inside_no_media_still_renders(row, plugin):
    cut = {**row, "input_ids": row["input_ids"][-5:], "labels": row["labels"][-5:], "media_info": []}
    assert text_of(plugin, cut).count("[[") == 1


def test_a_terminal_is_not_controlled_by_data(plugin):
    chat = [{"role": "user", "content": "\x1b]0;title\x07\x1b[2J\u202eab"}, {"role": "assistant", "content": "No."}]
    shown = str(plugin.preview({"messages": chat}))
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "\\u{1b}]0;title\\u{7}" in shown


def test_tensor_table_lists_every_tensor():
    console = Console(width=80)
    batch = {
        "input_ids": torch.zeros(2, 7, dtype=torch.int64),
        "pixel_values": torch.zeros(8, 2**18),
        "images": [[torch.zeros(3, 4, 4)], [torch.zeros(3, 4, 4)]],
        "flag": True,
    }
    with console.capture() as capture:
        console.print(tensor_table(list_tensors(batch)))
    assert [line.split() for line in capture.get().splitlines()] == [
        ["name", "shape", "dtype", "MiB"],
        ["input_ids", "(2,", "7)", "torch.int64", "0.000"],
        ["pixel_values", "(8,", "262144)", "torch.float32", "8.000"],
        ["images", "2", "of", "(3,", "4,", "4)", "torch.float32", "0.000"],
        ["flag", "True", "bool", "0.000"],
    ]
