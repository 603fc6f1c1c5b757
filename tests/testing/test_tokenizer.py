import hashlib
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mmdatasets.testing import build_tokenizer
from mmdatasets.testing.tokenizer import BASE_VOCAB_SIZE, _trained_bpe

SPECIAL = ["<|start|>", "<|image|>", "<|end|>"]
PLAIN = ["<think>", "</think>"]


def family_tokenizer(**options):
    return build_tokenizer(SPECIAL, plain_tokens=PLAIN, eos_token="<|end|>", pad_token="<|pad|>", **options)


def test_the_vocabulary_is_the_same_in_another_process_with_other_threads():
    code = "from mmdatasets.testing.tokenizer import _trained_bpe as t; import hashlib; "
    code += "print(hashlib.sha256(t().encode()).hexdigest())"
    env = os.environ | {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(_trained_bpe().encode()).hexdigest()


def test_ids_follow_the_base_vocabulary_in_the_given_order():
    tokenizer = family_tokenizer()
    expected = [*SPECIAL, "<|pad|>", *PLAIN]
    assert tokenizer.convert_ids_to_tokens(list(range(BASE_VOCAB_SIZE, len(tokenizer)))) == expected
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|end|>", "<|pad|>", None)


def test_the_corpus_taught_it_words():
    tokenizer = family_tokenizer()
    text = "What is in this image? The picture shows a small dog."
    assert len(tokenizer(text)["input_ids"]) < len(text) / 2
    assert tokenizer.tokenize("1024") == ["1", "0", "2", "4"]


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_decoding_gives_back_the_normalised_text(text):
    tokenizer = family_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_special_tokens_are_skipped_and_plain_ones_are_not():
    tokenizer = family_tokenizer()
    ids = tokenizer("<|start|><think>a</think><|image|><|end|>")["input_ids"]
    added = [i for i in ids if i >= BASE_VOCAB_SIZE]
    assert tokenizer.convert_ids_to_tokens(added) == ["<|start|>", "<think>", "</think>", "<|image|>", "<|end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"


def test_everything_survives_saving_and_loading(tmp_path):
    tokenizer = family_tokenizer(
        named_tokens={"image_token": "<|image|>", "boi_token": "<|begin_image|>"},
        bos_token="<|start|>",
        unk_token="<unk>",
        add_bos=True,
        padding_side="left",
        model_max_length=77,
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)

    text = "Hello <|begin_image|><|image|> <think> 42 e\u0301"
    assert loaded(text) == tokenizer(text)
    assert loaded(text)["input_ids"][0] == tokenizer.bos_token_id
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert set(loaded.all_special_tokens) == set(tokenizer.all_special_tokens)
    assert not set(PLAIN) & set(loaded.all_special_tokens)
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "image_token", "boi_token"):
        assert getattr(loaded, name) == getattr(tokenizer, name) is not None
        assert getattr(loaded, f"{name}_id") == getattr(tokenizer, f"{name}_id") >= BASE_VOCAB_SIZE
    assert (loaded.padding_side, loaded.model_max_length) == ("left", 77)


def test_add_bos_needs_a_bos_token():
    with pytest.raises(ValueError, match="bos_token"):
        family_tokenizer(add_bos=True)
