"""Marked templates say what the published ones with tags say."""

from __future__ import annotations

import pytest

from mmdatasets.testing.marks import find_runs, mark_generation, runs_of
from mmdatasets.testing.tokenizer import build_tokenizer

PUBLISHED = [
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_instruct_2507",
    "llama3",
    "gemma3",
    "idefics3",
    "smolvlm",
    "llava_next",
]
CHAT = [
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": [{"type": "text", "text": "A cat?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
]


def masks(template: str) -> dict[str, list[int]]:
    tokenizer = build_tokenizer([], bos_token="<s>", eos_token="</s>")
    typed = any(form in template for form in ("'type'", ".type"))
    chat = CHAT if typed else [{**turn, "content": turn["content"][0]["text"]} for turn in CHAT]
    return dict(
        tokenizer.apply_chat_template(
            chat, chat_template=template, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_marks_equal_the_published_tags(name: str, trl_template) -> None:
    plain, published = trl_template(name), trl_template(f"{name}_training")
    assert "endgeneration" not in plain
    marked = masks(mark_generation(plain))
    assert any(marked["assistant_masks"])
    assert marked == masks(published)
    assert mark_generation(published) == published


def test_a_turn_that_does_not_begin_with_the_generation_prompt_begins_with_its_text() -> None:
    template = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '|' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'answer>' }}{% endif %}"
    )
    tokenizer = build_tokenizer([], bos_token="<s>")
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]
    made = tokenizer.apply_chat_template(
        chat, chat_template=mark_generation(template), return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, flag in pairs if flag]).strip() == "Hi.|"


def test_runs_are_found_in_their_order_behind_their_context() -> None:
    assert runs_of([True, False, True, True]) == [(0, 1), (2, 4)]
    assert runs_of([]) == []
    ids = [1, 5, 9, 5, 2, 5, 9, 5]
    assert find_runs(ids, [([2], [5, 9])]) == [False] * 5 + [True, True, False]
    assert find_runs(ids, [([], [5]), ([9], [5])]) == [False, True, False, True] + [False] * 4
    assert find_runs(ids, [([2], [9])]) is None
    assert find_runs(ids, [([2], [5]), ([1], [5])]) is None
