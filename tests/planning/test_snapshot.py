from __future__ import annotations

import pickle

import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import MMDatasetsError
from mmdatasets.planning.snapshot import ProcessorSnapshot
from mmdatasets.testing.processors import build_processor


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_restored_processor_is_the_same(name: str, image_file) -> None:
    processor = build_processor(name)
    snapshot = ProcessorSnapshot.of(processor)
    restored = snapshot.restore()
    assert type(restored) is type(processor)
    assert ProcessorSnapshot.of(restored).digest == snapshot.digest
    messages = [{"role": "user", "content": [{"type": "image", "image": str(image_file(90, 60))}]}]
    ours, theirs = (p.apply_chat_template(messages, tokenize=True, return_dict=True) for p in (restored, processor))
    assert ours["input_ids"] == theirs["input_ids"]
    assert restored.chat_template == processor.chat_template


def test_a_snapshot_survives_calls_and_tells_changes() -> None:
    processor = build_processor("qwen2_vl")
    digest = ProcessorSnapshot.of(processor).digest
    processor.tokenizer.backend_tokenizer.enable_padding(length=9)
    processor.tokenizer.backend_tokenizer.enable_truncation(5)
    assert ProcessorSnapshot.of(processor).digest == digest
    processor.chat_template += "!"
    changed = ProcessorSnapshot.of(processor).digest
    assert changed != digest
    processor.tokenizer.add_tokens(["<new>"])
    assert ProcessorSnapshot.of(processor).digest not in (digest, changed)


def test_saving_somewhere_does_not_change_it(tmp_path) -> None:
    processor = build_processor("qwen3_vl")
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    assert ProcessorSnapshot.of(loaded).digest == ProcessorSnapshot.of(processor).digest


def test_a_processor_that_loads_differently_is_refused() -> None:
    snapshot = ProcessorSnapshot.of(build_processor("qwen2_vl"))
    files = dict(snapshot.files)
    files["processor_config.json"] = files["processor_config.json"].replace(
        b'"processor_class"', b'"lost_setting": 1, "processor_class"'
    )
    broken = ProcessorSnapshot(snapshot.module, snapshot.qualname, files, b"", "x")
    with pytest.raises(MMDatasetsError, match="differs in lost_setting"):
        broken.restore()


def test_unpickled_plugins_pickle_alike() -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"))
    first = pickle.dumps(plugin)
    again = pickle.loads(first)
    assert pickle.dumps(again) == first
    assert again.snapshot.digest == plugin.snapshot.digest
    assert again.options == plugin.options
