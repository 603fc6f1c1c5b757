import pytest
import torch
from transformers import AutoProcessor

from mmdatasets.testing import build_processor, list_processors, make_image

NAMES = list_processors()

# What the checkpoints' preprocessor_config.json say: pixels (least, most), patch size, normalisation mean.
CLIP_MEAN = pytest.approx([0.48145466, 0.4578275, 0.40821073])
PUBLISHED = {
    "qwen2_vl": (3136, 12845056, 14, CLIP_MEAN),
    "qwen2_5_vl": (3136, 12845056, 14, CLIP_MEAN),
    "qwen3_vl": (65536, 16777216, 16, [0.5, 0.5, 0.5]),
}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"qwen9_vl.*qwen2_vl"):
        build_processor("qwen9_vl")


@pytest.mark.parametrize("name", NAMES)
def test_image_settings_are_the_published_ones(name):
    images = build_processor(name).image_processor
    settings = (images.size["shortest_edge"], images.size["longest_edge"], images.patch_size, list(images.image_mean))
    assert settings == PUBLISHED[name]
    assert (images.merge_size, images.temporal_patch_size) == (2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_media_tokens_are_special_and_single(name):
    processor = build_processor(name)
    for token in (processor.image_token, processor.video_token):
        ids = processor.tokenizer(token)["input_ids"]
        assert ids == [processor.tokenizer.convert_tokens_to_ids(token)]
        assert token in processor.tokenizer.all_special_tokens


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("qwen2_vl", [], ["<tool_call>", "<think>"]),
        ("qwen2_5_vl", ["<tool_call>", "</tool_call>"], ["<think>"]),
        ("qwen3_vl", ["<tool_call>", "</tool_call>", "<think>", "</think>"], []),
    ],
)
def test_plain_added_tokens_are_those_of_the_generation(name, present, absent):
    tokenizer = build_processor(name).tokenizer
    for token in present:
        assert len(tokenizer(token)["input_ids"]) == 1
        assert token not in tokenizer.all_special_tokens
    for token in absent:
        assert len(tokenizer(token)["input_ids"]) > 1


def test_each_call_builds_another_processor():
    first, second = build_processor("qwen2_vl"), build_processor("qwen2_vl")
    first.image_processor.size["longest_edge"] = 1
    first.tokenizer.add_tokens(["<new>"])
    assert second.image_processor.size["longest_edge"] == 12845056
    assert "<new>" not in second.tokenizer.get_vocab()
    assert build_processor("qwen2_vl").image_processor.size["longest_edge"] == 12845056


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_processor_loads_as_the_same(name, tmp_path):
    processor = build_processor(name)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    assert loaded.chat_template == processor.chat_template
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert loaded.video_processor.to_dict() == processor.video_processor.to_dict()

    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<think> What?"}]}]
    outputs = []
    for each in (processor, loaded):
        text = each.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        outputs.append(each(text=[text], images=[make_image(200, 120)], return_tensors="pt"))
    assert set(outputs[0]) == set(outputs[1])
    for key in outputs[0]:
        assert torch.equal(outputs[0][key], outputs[1][key]), key
