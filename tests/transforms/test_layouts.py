"""Rows as public datasets have them, through `datasets.map`: the same ids and labels as of the row of messages."""

from __future__ import annotations

import json
from typing import TypeAlias

import datasets
import pytest

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import ConversationError, MediaError, TemplateError
from mmdatasets.testing.processors import build_processor
from tests.chat.chats import TOOLS, assistant, user

Row: TypeAlias = dict[str, object]

CALL = {"name": "look_up", "arguments": {"city": "Rome"}}
CALLED = {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture(scope="module")
def with_tools():
    return auto_plugin(build_processor("qwen3_vl"))


def said(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def mapped(plugin, rows: list[Row], **kwargs: object) -> datasets.Dataset:
    dataset = datasets.Dataset.from_list(rows)
    expected = plugin.features(dataset.features)
    result = dataset.map(plugin.transform, batched=True, batch_size=2, with_indices=True, features=expected, **kwargs)
    assert result.features == expected
    inferred = dataset.map(plugin.transform, batched=True, batch_size=2)
    assert inferred.column_names == result.column_names
    return result


def same(plugin, rows: list[Row], equivalent: list[Row], kept: list[str]) -> None:
    """Asserts that rows of another layout become what those of messages become, and which columns pass through."""
    found = mapped(plugin, rows)
    expected = [plugin.transform({name: [value] for name, value in row.items()}) for row in equivalent]
    for name in ("input_ids", "labels", "length", "media_info"):
        assert list(found[name]) == [row[name][0] for row in expected], name
    for modality in ("images", "videos"):
        assert [len(items) for items in found[modality]] == [len(row[modality][0]) for row in expected]
    assert [name for name in found.column_names if name not in plugin.features()] == kept
    assert [found[name][:] for name in kept] == [[row.get(name) for row in rows] for name in kept]


# ----------------------------------------------------------------------------------------------------- with images


def test_llava_instruct_and_sharegpt4v(plugin, image_file) -> None:
    first, second = str(image_file(60, 90)), str(image_file(130, 70))
    turns = [said("human", "<image>\nWhat is it?"), said("gpt", "A cat."), said("human", "Sure?"), said("gpt", "Yes.")]
    rows = [
        {"id": "000000033471", "image": first, "conversations": turns},
        {"id": "000000052846", "image": second, "conversations": [said("human", "Describe it.\n<image>"), turns[1]]},
        {"id": "text", "image": None, "conversations": turns[2:]},  # the mix has rows without an image
    ]
    chat = [user("<image>\nWhat is it?"), assistant("A cat."), user("Sure?"), assistant("Yes.")]
    equivalent = [
        {"messages": chat, "images": [first]},
        {"messages": [user("Describe it.\n<image>"), chat[1]], "images": [second]},
        {"messages": chat[2:], "images": []},
    ]
    same(plugin, rows, equivalent, ["id"])


def test_llama_factory_demonstrations(plugin, image_file) -> None:
    image = str(image_file(60, 60))
    chat = [user("<image>Who are they?"), assistant("Players."), user("What do they do?"), assistant("They play.")]
    same(plugin, [{"messages": chat, "images": [image]}], [{"messages": chat, "images": [image]}], [])
    rows = [
        {"instruction": "What is it?", "input": "<image>", "output": "A cat.", "images": [image], "history": None},
        {"instruction": "Sure?", "input": "", "output": "Yes.", "images": [], "history": [["Is it?", "It is."]]},
    ]
    equivalent = [
        {"messages": [user("What is it?\n<image>"), assistant("A cat.")], "images": [image]},
        {"messages": [user("Is it?"), assistant("It is."), user("Sure?"), assistant("Yes.")], "images": []},
    ]
    same(plugin, rows, equivalent, [])


def test_trl_prompt_and_completion(plugin, image_file) -> None:
    image = str(image_file(60, 60))
    prompt = [user("<image>What is it?"), assistant("A cat."), user("Sure?")]
    rows = [{"prompt": prompt, "completion": [assistant("Yes.")], "images": [image], "source": "a"}]
    equivalent = [prompt[0], {**prompt[1], "train": False}, prompt[2], assistant("Yes.")]
    same(plugin, rows, [{"messages": equivalent, "images": [image]}], ["source"])
    labels = [token for token in mapped(plugin, rows)[0]["labels"] if token != -100]
    text = plugin.processor.tokenizer.decode(labels)
    assert "Yes." in text
    assert "cat" not in text
    strings = [{"prompt": "Sure?", "completion": "Yes."}]
    same(plugin, strings, [{"messages": [user("Sure?"), assistant("Yes.")]}], [])


def test_parts_of_other_turns_do_not_matter(plugin, image_file) -> None:
    """Arrow gives every struct the keys of all of them."""
    image = str(image_file(60, 60))
    rows = [
        {"conversations": [{**said("human", "<image>Hm?"), "weight": None}, {**said("gpt", "A."), "weight": 0}]},
        {"conversations": [{**said("human", "<image>Hm?"), "markdown": None}, said("gpt", "B.")]},
    ]
    chats = [[user("<image>Hm?"), assistant("A.", weight=0)], [user("<image>Hm?"), assistant("B.")]]
    same(
        plugin,
        [{**row, "images": [image]} for row in rows],
        [{"messages": chat, "images": [image]} for chat in chats],
        [],
    )


@pytest.mark.parametrize("form", ["dict", "stream"])
def test_plain_batches(form: str, plugin) -> None:
    columns = {"instruction": ["Add.", "Go."], "input": ["1 2", None], "output": ["3", "Gone."]}
    expected = plugin.transform({"messages": [[user("Add.\n1 2"), assistant("3")], [user("Go."), assistant("Gone.")]]})
    if form == "dict":
        assert plugin.transform(columns) == expected
    else:
        stream = datasets.Dataset.from_dict(columns).to_iterable_dataset().map(plugin.transform, batched=True)
        assert [row["input_ids"] for row in stream] == expected["input_ids"]


# ---------------------------------------------------------------------------------------------------------- tools


def test_tools_and_calls_reach_the_template(with_tools) -> None:
    """As LLaMA-Factory's demonstration of tools has them. The processor's own rendering is what is expected."""
    turns = [
        said("human", "Where?"),
        said("function_call", json.dumps(CALL)),
        said("observation", '{"found": true}'),
        said("gpt", "There."),
    ]
    rows = [
        {"conversations": turns, "tools": json.dumps(TOOLS), "system": "Be brief."},
        {"conversations": [turns[0], turns[3]], "tools": "", "system": None},
    ]
    chats = [
        [SYSTEM, user("Where?"), CALLED, {"role": "tool", "content": '{"found": true}'}, assistant("There.")],
        [user("Where?"), assistant("There.")],
    ]
    found = mapped(with_tools, rows)
    assert found.column_names == list(with_tools.features())
    for ids, chat, tools in zip(found["input_ids"], chats, (TOOLS, None), strict=True):
        text = with_tools.processor.apply_chat_template(chat, tools=tools, tokenize=False)
        assert with_tools.processor.tokenizer(text)["input_ids"] == ids
    trained = [token for token in found[0]["labels"] if token != -100]
    assert with_tools.processor.tokenizer.decode(trained).count("Rome") == 1
    assert "Looks a city up" not in with_tools.processor.tokenizer.decode(trained)
    same(with_tools, rows, [{"messages": chats[0], "tools": TOOLS}, {"messages": chats[1]}], [])


def test_tools_and_calls_that_arrow_filled_up(with_tools) -> None:
    other = {"name": "greet", "description": "Greets.", "parameters": {"type": "object", "properties": {"who": {}}}}
    calls = [{"type": "function", "function": {"name": "greet", "arguments": {"who": "me"}}}]
    rows = [
        {"messages": [user("Where?"), CALLED], "tools": TOOLS},
        {"messages": [user("Greet."), {"role": "assistant", "tool_calls": calls}], "tools": [{"function": other}]},
    ]
    same(with_tools, rows, rows, [])


def test_tools_cannot_smuggle_control_tokens(with_tools) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "a <|im_end|> and <|image_pad|>"}}
    row = with_tools.transform({"messages": [[user("x"), assistant("y")]], "tools": [[tool]]})
    plain = with_tools.transform({"messages": [[user("x"), assistant("y")]], "tools": [[{**tool, "function": {}}]]})
    for token in ("<|im_end|>", "<|image_pad|>"):
        number = with_tools.processor.tokenizer.convert_tokens_to_ids(token)
        assert row["input_ids"][0].count(number) == plain["input_ids"][0].count(number)


def test_tools_that_the_template_does_not_write_are_an_error() -> None:
    plugin = auto_plugin(build_processor("llava_next"))
    columns = {"messages": [[user("x"), assistant("y")]] * 2, "tools": [None, TOOLS]}
    with pytest.raises(TemplateError, match=r"row 1 of the batch: the row has 1 tool\(s\), which the chat template"):
        plugin.transform(columns)
    columns = {"conversations": [[said("human", "x"), said("function_call", json.dumps(CALL))]]}
    expected = plugin.transform({"messages": [[user("x"), assistant(json.dumps(CALL))]]})
    assert plugin.transform(columns) == expected


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        {"conversations": [said("human", "x")], "chosen": said("gpt", "y"), "rejected": said("gpt", "z")},
        {"prompt": "x", "completion": "y", "label": True},
        {"messages": [user("x"), assistant("y")], "label": False},
    ],
)
def test_preference_data_is_refused(row: Row, plugin) -> None:
    dataset = datasets.Dataset.from_list([row])
    for act in (
        lambda: dataset.map(plugin.transform, batched=True),
        lambda: plugin.features(dataset.features),
        lambda: plugin.transform({name: [value] for name, value in row.items()}),
    ):
        with pytest.raises(ConversationError, match="preference data"):
            act()


def test_a_layout_can_be_given() -> None:
    processor = build_processor("qwen2_vl")
    rows = [{"messages": [user("x"), assistant("y")], "instruction": "a", "output": "b", "label": True}]
    given = get_mm_plugin("qwen2_vl", processor=processor, layout="alpaca")
    same_as = auto_plugin(processor).transform({"messages": [[user("a"), assistant("b")]]})
    found = mapped(given, rows)
    assert found["input_ids"][:] == same_as["input_ids"]
    assert found.column_names[:2] == ["messages", "label"]
    with pytest.raises(ConversationError, match="layout='alpaca' needs"):
        given.transform({"messages": [[user("x"), assistant("y")]]})
    with pytest.raises(ValueError, match="layout='llava' is none of 'messages', "):
        get_mm_plugin("qwen2_vl", processor=processor, layout="llava")


def test_the_generic_plugin_checks_itself_whatever_the_layout() -> None:
    processor = build_processor("qwen2_vl")
    for layout in (None, "alpaca", "prompt_completion"):
        generic = get_mm_plugin("generic", processor=processor, layout=layout)
        assert set(generic.modalities) == {"image", "video"}
        if layout == "alpaca":
            row = generic.transform({"instruction": ["a"], "output": ["b"]})
            assert (
                row["input_ids"]
                == auto_plugin(processor).transform({"messages": [[user("a"), assistant("b")]]})["input_ids"]
            )


def test_errors_name_the_row_and_the_column(plugin) -> None:
    rows = [{"conversations": [said("human", "x")]}] * 2 + [{"conversations": [said("alien", "x")]}]
    with pytest.raises(ConversationError, match="row 2, column 'conversations': turn 0 is 'from' 'alien'; expected"):
        mapped(plugin, rows)
    with pytest.raises(MediaError, match="takes no audios"):
        plugin.transform({"instruction": ["<audio>"], "output": ["x"], "audios": [["a.wav"]]})
