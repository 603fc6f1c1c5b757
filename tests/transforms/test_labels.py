"""`train_on`, `train` and `weight` in mapped rows."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import ConversationError
from mmdatasets.testing.processors import build_processor
from mmdatasets.transforms.tokenise import IGNORE_INDEX

CHAT = [
    {"role": "user", "content": "<image>One?", "train": None, "weight": None},
    {"role": "assistant", "content": "First.", "train": False, "weight": None},
    {"role": "user", "content": "Two?", "train": None, "weight": None},
    {"role": "assistant", "content": "Second <image> and on.", "train": None, "weight": 1.0},
]


def mapped(name: str, image, chat=CHAT, **fields):
    plugin = auto_plugin(build_processor(name), **fields)
    paths = [str(image(90, 60)) for message in chat if "<image>" in message["content"]]
    dataset = datasets.Dataset.from_list([{"messages": chat, "images": paths}])
    row = dataset.map(plugin.transform, batched=True, features=plugin.features())[0]
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    trained = labels != IGNORE_INDEX
    assert np.array_equal(ids[trained], labels[trained])
    assert not (trained & plugin.engine.is_media_token(ids)).any()
    for info in row["media_info"]:
        assert not trained[info["start"] : info["end"]].any()
    return ids, trained, plugin.engine.tokenizer.decode(ids[trained])


@pytest.mark.parametrize(("name", "gap"), [("qwen2_vl", "  "), ("qwen2_5_vl", "  "), ("internvl", " \n ")])
def test_messages_say_whether_they_are_trained(name: str, gap: str, image_file) -> None:
    ids, _, text = mapped(name, image_file)
    second = f"Second{gap}and on.<|im_end|>\n"  # where the image stands, the template may write white space
    assert text == second
    silent = [{"role": message["role"], "content": message["content"]} for message in CHAT]
    plain, _, text = mapped(name, image_file, silent)
    assert np.array_equal(ids, plain)
    assert text == f"First.<|im_end|>\n{second}"
    assert mapped(name, image_file, silent, train_on="last")[2] == second


def test_all_trains_everything_but_media(image_file) -> None:
    silent = [{"role": message["role"], "content": message["content"]} for message in CHAT]
    ids, trained, text = mapped("qwen2_vl", image_file, silent, train_on="all")
    assert text.startswith("<|im_start|>system\n")
    assert text.count("<|im_start|>") == 5
    assert "<|vision" not in text
    media = len(ids) - trained.sum()
    assert media == mapped("qwen2_vl", image_file, silent)[0].size - trained.sum() > 4


def test_a_refused_weight_names_the_row(image_file) -> None:
    chat = [CHAT[0], {**CHAT[1], "train": None, "weight": 0.3}]
    plugin = auto_plugin(build_processor("qwen2_vl"))
    with pytest.raises(ConversationError, match=r"row 7: message 1: 'weight' must be 0 or 1, got 0\.3"):
        plugin.transform({"messages": [chat], "images": [[str(image_file(90, 60))]]}, [7])


def test_an_unknown_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="train_on='user' is none of 'assistant', 'last', 'completion', 'all'"):
        auto_plugin(build_processor("qwen2_vl"), train_on="user")


def test_train_on_is_part_of_the_fingerprint() -> None:
    from datasets.fingerprint import Hasher

    processor = build_processor("qwen2_vl")
    hashes = {Hasher.hash(auto_plugin(processor, train_on=train_on)) for train_on in ("assistant", "last", "all")}
    assert len(hashes) == 3
