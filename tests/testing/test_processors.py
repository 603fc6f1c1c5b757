from dataclasses import replace

import pytest
import torch
from transformers import AutoProcessor

from mmdatasets.testing import build_processor, get_spec, list_processors
from mmdatasets.testing.processors import missing_packages, registry
from mmdatasets.types import MODALITIES
from tests.testing.families import ONE_A_ROW, encode, make_media

NAMES = list_processors()
KINDS = [(name, kind) for name in NAMES for kind in get_spec(name).modalities]

# Tokens that one item becomes, as the model cards and papers count them: a tower's patches after merging, per tile.
PUBLISHED_COUNTS = {
    ("gemma3", "image"): 256,
    ("gemma3n", "audio"): 188,
    ("gemma3n", "image"): 256,
    ("llama4", "image"): 144,
    ("llava", "image"): 576,
    ("got_ocr2", "image"): 256,
    ("ovis2", "image"): 256,
    ("cohere2_vision", "image"): 256,
    ("mllama", "image"): 1,
    ("paligemma", "image"): 256,
    ("video_llava", "image"): 256,
    ("video_llava", "video"): 4 * 257,
}

# Where the token that marks an item in the prompt is not the one that is repeated.
REPEATED_TOKENS = {"gemma3": "<image_soft_token>", "llama4": "<|patch|>", "ovis2": "<IMG_ATOM>"}

# What loads them does not hand the template over.
LOSES_ITS_TEMPLATE = ("chameleon", "phi4_multimodal")

# The first does not resize a video to whole patches, the second cannot read metadata given as mappings.
OWN_CALL_FAILS = {
    ("minimax_m3_vl", "video"): (RuntimeError, "is invalid for input of size"),
    ("nemotron_h_omni", "video"): (AttributeError, "has no attribute 'fps'"),
}

# What the checkpoints' preprocessor_config.json say: pixels (least, most), patch size, normalisation mean.
CLIP_MEAN = pytest.approx([0.48145466, 0.4578275, 0.40821073])
PUBLISHED_PIXELS = {
    "qwen2_vl": (3136, 12845056, 14, CLIP_MEAN),
    "qwen2_5_vl": (3136, 12845056, 14, CLIP_MEAN),
    "qwen2_5_omni": (3136, 12845056, 14, CLIP_MEAN),
    "qwen3_vl": (65536, 16777216, 16, [0.5, 0.5, 0.5]),
    "qwen3_omni_moe": (3136, 12845056, 16, [0.5, 0.5, 0.5]),
}


def listener(processor):
    """The name of the part that takes audio."""
    return "audio_processor" if hasattr(processor, "audio_processor") else "feature_extractor"


def test_an_unknown_name_lists_the_known_ones():
    for function in (build_processor, get_spec):
        with pytest.raises(KeyError, match=r"qwen9_vl.*qwen2_vl"):
            function("qwen9_vl")


def test_a_family_without_its_packages_is_left_out(monkeypatch):
    spec, build = registry._FAMILIES["llava"]
    monkeypatch.setitem(registry._FAMILIES, "llava", (replace(spec, packages=("torch", "no_such_package")), build))
    assert "llava" not in list_processors()
    assert missing_packages()["llava"] == ["no_such_package"]
    assert get_spec("llava").packages == ("torch", "no_such_package")


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_is_true(name):
    spec, processor = get_spec(name), build_processor(name)
    assert spec.name == name
    assert "/" in spec.checkpoint
    assert list(spec.modalities) == [kind for kind in MODALITIES if kind in spec.modalities]
    parts = {"image": "image_processor", "video": "video_processor", "audio": listener(processor)}
    has = [kind for kind, part in parts.items() if getattr(processor, part, None) is not None]
    assert has == list(spec.modalities)


@pytest.mark.parametrize("name", PUBLISHED_PIXELS)
def test_image_settings_are_the_published_ones(name):
    images = build_processor(name).image_processor
    settings = (images.size["shortest_edge"], images.size["longest_edge"], images.patch_size, list(images.image_mean))
    assert settings == PUBLISHED_PIXELS[name]
    assert (images.merge_size, images.temporal_patch_size) == (2, 2)


@pytest.mark.parametrize(("name", "kind"), PUBLISHED_COUNTS)
def test_an_item_becomes_the_published_number_of_tokens(name, kind):
    processor = build_processor(name)
    token = REPEATED_TOKENS.get(name) or getattr(processor, f"{kind}_token")
    ids = encode(name, processor, kind, [make_media(kind, 1)])["input_ids"]
    assert (ids == processor.tokenizer.convert_tokens_to_ids(token)).sum() == PUBLISHED_COUNTS[name, kind]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_media_tokens_are_special_and_single(name, kind):
    processor = build_processor(name)
    token = getattr(processor, f"{kind}_token")
    ids = processor.tokenizer(token, add_special_tokens=False)["input_ids"]
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


@pytest.mark.parametrize("name", NAMES)
def test_each_call_builds_another_processor(name):
    changed = build_processor(name)
    part = changed.image_processor if "image" in get_spec(name).modalities else getattr(changed, listener(changed))
    before = part.to_dict()
    changed.tokenizer.add_tokens(["<new>"])
    for value in vars(part).values():
        if isinstance(value, dict):
            value.clear()
        elif isinstance(value, list):
            value.append(None)

    fresh = build_processor(name)
    part = fresh.image_processor if "image" in get_spec(name).modalities else getattr(fresh, listener(fresh))
    assert part.to_dict() == before
    assert "<new>" not in fresh.tokenizer.get_vocab()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_processor_loads_as_the_same(name, tmp_path):
    processor = build_processor(name)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    if name in LOSES_ITS_TEMPLATE:
        assert loaded.chat_template is None
        loaded.chat_template = processor.chat_template
    assert loaded.chat_template == processor.chat_template
    for kind in get_spec(name).modalities:
        if (name, kind) in OWN_CALL_FAILS:
            error, message = OWN_CALL_FAILS[name, kind]
            with pytest.raises(error, match=message):
                encode(name, loaded, kind, [make_media(kind, 1)])
            continue
        count = 1 if (name, kind) in ONE_A_ROW else 2
        first, second = (encode(name, each, kind, [make_media(kind, count)]) for each in (processor, loaded))
        assert_equal(first, second)


def assert_equal(first, second):
    assert set(first) == set(second)
    for key, value in first.items():
        if torch.is_tensor(value):
            assert value.dtype == second[key].dtype, key
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key
