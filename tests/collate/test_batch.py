from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from mmdatasets import auto_plugin
from mmdatasets.collate.batch import Batch, cast_media
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin


def leaves(value, name=""):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | Batch):
        for key, item in value.items():
            yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}/{index}")


@pytest.fixture(scope="module")
def nested(image_file):
    """A batch of MiniCPM-V: a mapping within the batch, and in it lists of lists of tensors."""
    plugin = auto_plugin(build_standin("minicpm_v"))
    messages = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}] for text in ("<image>?", "?")
    ]
    rows = plugin.transform({"messages": messages, "images": [[image_file(200, 300)], []]})
    return plugin.collator()([{name: column[index] for name, column in rows.items()} for index in range(2)])


def test_a_nested_batch_moves_as_a_whole(nested) -> None:
    moved = copy.deepcopy(nested).to("meta", non_blocking=True)
    found = dict(leaves(moved))
    assert any("data/pixel_values/0/0" in name for name in found)
    assert found.keys() == dict(leaves(nested)).keys()
    assert all(tensor.device.type == "meta" for tensor in found.values())


@pytest.mark.parametrize("arguments", [(torch.bfloat16,), ("cpu", torch.bfloat16)])
def test_only_floating_tensors_are_cast(nested, arguments) -> None:
    before, moved = dict(leaves(nested)), dict(leaves(copy.deepcopy(nested).to(*arguments)))
    for name, tensor in moved.items():
        assert tensor.dtype == (torch.bfloat16 if before[name].is_floating_point() else before[name].dtype)


def test_a_batch_pickles(nested) -> None:
    again = pickle.loads(pickle.dumps(nested))
    assert type(again) is Batch
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(leaves(nested), leaves(again), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs an accelerator")
def test_everything_is_pinned(nested) -> None:
    pinned = pin_memory(nested)
    assert type(pinned) is Batch
    assert all(tensor.is_pinned() for _, tensor in leaves(pinned))
    assert not any(tensor.is_pinned() for _, tensor in leaves(nested))


def test_every_tensor_is_asked_to_be_pinned(nested, monkeypatch) -> None:
    """Where nothing can be pinned: what torch's own function reaches, with the operation made one that can be seen."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.to("meta"))
    pinned = pin_memory(nested)
    assert type(pinned) is Batch
    found = dict(leaves(pinned))
    assert found.keys() == dict(leaves(nested)).keys()
    assert all(tensor.device.type == "meta" for tensor in found.values())


def test_masks_and_numbers_of_items_keep_their_dtype() -> None:
    floats = torch.ones(2, 3)
    assert cast_media("pixel_values", floats, torch.bfloat16).dtype == torch.bfloat16
    assert cast_media("image_attention_mask", floats, torch.bfloat16).dtype == torch.float32
    assert cast_media("second_per_grid_ts", floats[0], torch.bfloat16).dtype == torch.float32
    assert cast_media("image_grid_thw", floats.long(), torch.bfloat16).dtype == torch.int64


CAST = {
    "qwen2_5_vl": {"pixel_values"},
    "mllama": {"pixel_values"},
    "llama4": {"pixel_values"},
    "video_llava": {"pixel_values_images"},
    "internvl": {"pixel_values"},
    "phi4_multimodal": {"image_pixel_values"},
}


@pytest.mark.parametrize(("family", "names"), CAST.items())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_of_pixels(family, names, dtype, image_file) -> None:
    plugin = auto_plugin(build_processor(family))
    chat = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "That."}]
    mapped = plugin.transform({"messages": [chat], "images": [[image_file(120, 90)]]})
    rows = [{name: column[0] for name, column in mapped.items()}]
    plain, cast = plugin.collator()(rows), plugin.collator(dtype=dtype)(rows)
    assert plain.keys() == cast.keys()
    for name, tensor in plain.items():
        assert cast[name].dtype == (dtype if name in names else tensor.dtype), name
        assert torch.equal(cast[name], tensor.to(cast[name].dtype)), name


def test_the_dtype_of_audio_features(tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_audio"))
    sound = write_audio(tmp_path / "a.wav", sampling_rate=16_000, duration_s=1.0)
    chat = [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "That."}]
    mapped = plugin.transform({"messages": [chat], "audios": [[sound]]})
    rows = [{name: column[0] for name, column in mapped.items()}]
    plain, cast = plugin.collator()(rows), plugin.collator(dtype=torch.bfloat16)(rows)
    assert cast["input_features"].dtype == torch.bfloat16
    assert torch.equal(cast["input_features"], plain["input_features"].bfloat16())
    assert cast["feature_attention_mask"].dtype == plain["feature_attention_mask"].dtype


def test_tensors_in_nested_lists_are_cast(image_file) -> None:
    plugin = auto_plugin(build_standin("minicpm_v"))
    chat = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}]
    mapped = plugin.transform({"messages": [chat], "images": [[image_file(90, 90)]]})
    batch = plugin.collator(dtype=torch.bfloat16)([{name: column[0] for name, column in mapped.items()}])
    assert {tensor.dtype for tensor in batch["data"]["pixel_values"][0]} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.int64, "bfloat16"])
def test_other_dtypes_are_refused(qwen_plugin, dtype) -> None:
    with pytest.raises(ValueError, match="dtype must be a floating"):
        qwen_plugin.collator(dtype=dtype)


def test_other_tensors_than_those_of_torch_are_refused(qwen_plugin, qwen_rows) -> None:
    with pytest.raises(ValueError, match="return_tensors='np': batches are torch tensors"):
        qwen_plugin.collator(return_tensors="np")
    collator = qwen_plugin.collator(return_tensors="pt")
    assert collator([qwen_rows[0]], return_tensors="pt").keys() == collator([qwen_rows[0]]).keys()
    with pytest.raises(ValueError, match="return_tensors='tf'"):
        collator([qwen_rows[0]], return_tensors="tf")
