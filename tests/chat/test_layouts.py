"""Layouts: told from the columns, read into messages."""

from __future__ import annotations

import json

import pytest

from mmdatasets.chat.layouts import LAYOUTS, find_layout, read_tools
from mmdatasets.errors import ConversationError
from tests.chat.chats import TOOLS, assistant, user


def read(row: dict[str, object], **keys: bool) -> object:
    layout = find_layout(row)
    return layout.messages({name: row[name] for name in layout.consumed(row)}, **keys)


def said(speaker: object, value: object, **keys: object) -> dict[str, object]:
    return {"from": speaker, "value": value, **keys}


# ------------------------------------------------------------------------------------------------------ detection


@pytest.mark.parametrize(
    ("columns", "name", "consumed"),
    [
        # OpenAI's, and LLaMA-Factory's demonstration of images
        ("messages images", "messages", "messages"),
        ("messages tools", "messages", "messages tools"),
        # ultrachat_200k: the prompt, repeated
        ("prompt prompt_id messages", "messages", "messages"),
        ("messages system", "messages", "messages"),
        # LLaVA-Instruct and ShareGPT4V
        ("id image conversations", "conversations", "conversations"),
        # LLaMA-Factory's glaive_toolcall
        ("conversations tools", "conversations", "conversations tools"),
        ("conversations system tools", "conversations", "conversations system tools"),
        # Stanford's, with the rendered prompt beside it
        ("instruction input output text", "alpaca", "instruction output input"),
        ("instruction input output system history", "alpaca", "instruction output input history system"),
        ("prompt completion images", "prompt_completion", "prompt completion"),
        ("text url", "text", "text"),
        ("text tools system", "text", "text"),
    ],
)
def test_detection(columns: str, name: str, consumed: str) -> None:
    names = columns.split()
    layout = find_layout(names)
    assert layout.name == name
    assert layout.consumed(names) == tuple(consumed.split())
    assert find_layout(names, layout.name) == layout


@pytest.mark.parametrize(
    ("columns", "booleans", "remedy"),
    [
        ("prompt chosen rejected", "", "rename"),
        ("chosen rejected", "", "rename"),
        ("conversations chosen rejected images", "", "layout='conversations'"),
        ("prompt chosen rejected messages", "", "layout='messages'"),
        ("prompt completion label", "", "layout='prompt_completion'"),
        ("messages label", "label", "layout='messages'"),
        ("messages kto_tag", "kto_tag", "layout='messages'"),
        ("instruction output kto_tag", "kto_tag", "layout='alpaca'"),
    ],
)
def test_preference_data_is_refused_until_a_layout_is_given(columns: str, booleans: str, remedy: str) -> None:
    names = columns.split()
    with pytest.raises(ConversationError, match=r"preference data, for which there is plugin.preference_tr") as caught:
        find_layout(names, booleans=booleans.split())
    assert remedy in str(caught.value)
    name = next((name for name in LAYOUTS if repr(name) in remedy), None)
    if name is not None:
        assert find_layout(names, name, booleans=booleans.split()).name == name


def test_a_label_that_is_no_verdict_is_another_column() -> None:
    assert find_layout(["messages", "label"]).name == "messages"


def test_what_fits_nothing_says_what_was_found_and_expected() -> None:
    with pytest.raises(
        ConversationError, match=r"'messages'.*'conversations'.*'prompt', 'completion'.*found title, b"
    ):
        find_layout(["title", "b"])
    with pytest.raises(ConversationError, match="found none"):
        find_layout([])
    with pytest.raises(ConversationError, match=r"layout='alpaca' needs the column\(s\) instruction, output; found"):
        find_layout(["messages", "instruction"], "alpaca")


def test_a_named_column_is_the_one() -> None:
    assert find_layout(["dialogue", "messages"], messages_column="dialogue").needed == ("dialogue",)
    assert find_layout(["dialogue"], "conversations", "dialogue").needed == ("dialogue",)
    with pytest.raises(ConversationError, match="expected 'dialogue'"):
        find_layout(["messages", "instruction", "output"], messages_column="dialogue")


# -------------------------------------------------------------------------------------------------- conversations


def test_speakers_become_roles() -> None:
    turns = [said("system", "Be."), said("human", "<image>\nWhat?"), said("gpt", "This."), said("observation", "{}")]
    expected = [("system", "Be."), ("user", "<image>\nWhat?"), ("assistant", "This."), ("tool", "{}")]
    assert read({"conversations": turns}) == [{"role": role, "content": text} for role, text in expected]


def test_fields_that_arrow_filled_up_are_gone_and_others_stay() -> None:
    turn = said("gpt", "This.", role=None, content=None, weight=0, markdown=None)
    assert read({"conversations": [turn]}) == [assistant("This.", weight=0)]
    message = {"role": "user", "content": "x", "from": None, "value": None}
    assert read({"conversations": [message]}) == [message]  # either kind of turn, under either name
    assert read({"messages": [said("human", "x")]}) == [user("x")]


def test_a_function_call_is_a_tool_call_where_the_template_writes_those() -> None:
    function = {"name": "look_up", "arguments": {"city": "Rome"}}
    written = json.dumps(function)
    expected = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    as_string = json.dumps({**function, "arguments": json.dumps(function["arguments"])})
    for value in (written, as_string, f"[{written}]"):
        assert read({"conversations": [said("function_call", value)]}) == [expected]
    assert read({"conversations": [said("function_call", written)]}, calls="none") == [assistant(written)]
    for other in ("look_up(city=Rome)", "[]", '{"name": "f", "why": 1}', "[1]"):
        assert read({"conversations": [said("function_call", other)]}) == [assistant(other)]


@pytest.mark.parametrize("wrapped", [True, False])
def test_arguments_have_the_form_that_the_template_takes(wrapped: bool) -> None:
    """OpenAI's are JSON, which templates that expect mappings would quote once more."""

    def chat(*arguments: object) -> list[dict[str, object]]:
        functions = [{"name": "f", "arguments": given} for given in (*arguments, "x y")] + [{"name": "g"}]
        calls = [{"id": "c", "type": "function", "function": one} for one in functions] if wrapped else functions
        return [user("x"), {"role": "assistant", "content": "", "tool_calls": calls}]

    mapping = {"city": "Köln", "days": [1, 2]}
    spaced, plain = '{"city":  "Köln", "days": [1, 2]}', json.dumps(mapping, ensure_ascii=False)
    row = {"messages": chat({**mapping, "nothing, as Arrow fills it up": None}, spaced)}
    assert read(row) == chat(mapping, mapping)
    assert read(row, calls="text") == chat(plain, spaced)
    with pytest.raises(ConversationError, match="column 'messages': message 1 has tool_calls, which the chat"):
        read(row, calls="none")
    assert read({"messages": [assistant("x", tool_calls=None)]}, calls="none") == [assistant("x", tool_calls=None)]


def test_a_chat_without_turns_stays_one_for_normalise_to_refuse() -> None:
    assert read({"conversations": [], "system": "Be."}) == []
    assert read({"messages": None}) is None


def test_a_system_column() -> None:
    turns = [said("human", "x")]
    system = {"role": "system", "content": "Be."}
    assert read({"conversations": turns, "system": "Be."}) == [system, user("x")]
    assert read({"conversations": [said("system", "Be."), *turns], "system": "Be."}) == [system, user("x")]
    for nothing in (None, ""):
        assert read({"conversations": turns, "system": nothing}) == [user("x")]
    with pytest.raises(ConversationError, match=r"column 'system': .*of its own"):
        read({"conversations": [said("system", "Be."), *turns], "system": "Do."})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": [said("human", "x"), said("alien", "y")]}, "column 'conversations': turn 1 is .*'alien'"),
        ({"conversations": [said("human", None)]}, "turn 0 has no 'value'"),
        ({"prompt": None, "completion": "x"}, "column 'prompt': expected a list of messages, got NoneType"),
        ({"instruction": "x", "output": None}, "column 'output': expected a string, got NoneType"),
        ({"instruction": "x", "output": ["good", "bad"]}, "column 'output': expected a string, got list"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "column 'history': expected a list of pairs"),
        ({"instruction": None, "output": "x"}, "column 'instruction': expected a string, got NoneType"),
        ({"conversations": [said(["gpt"], "x")]}, r"turn 0 is 'from' \['gpt'\]"),
        ({"conversations": [said("human", "x")], "system": 3}, "column 'system': expected a string, got int"),
    ],
)
def test_other_shapes_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        read(row)


# ------------------------------------------------------------------------------------- alpaca, prompt and completion


def test_alpaca() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert read(row) == [user("Add.\n1 2"), assistant("3")]
    for nothing in (None, ""):
        assert read({**row, "input": nothing, "history": nothing, "system": nothing}) == [user("Add."), assistant("3")]
    whole = read({**row, "history": [["a", "b"], ["c", "d"]], "system": "Be."})
    turns = [user("a"), assistant("b"), user("c"), assistant("d"), user("Add.\n1 2"), assistant("3")]
    assert whole == [{"role": "system", "content": "Be."}, *turns]


def test_prompt_and_completion() -> None:
    plain = [user("x"), assistant("y")]
    assert read({"prompt": "x", "completion": "y"}) == plain
    assert read({"prompt": plain[:1], "completion": plain[1:]}) == plain
    prompt = [user("x"), assistant("z"), assistant("w", weight=1, train=None), user("x")]
    assert read({"prompt": prompt, "completion": "y"}) == [
        user("x"),
        assistant("z", train=False),
        *prompt[2:],
        assistant("y"),
    ]


# ---------------------------------------------------------------------------------------------------------- tools


def test_tools_in_every_form() -> None:
    bare = TOOLS[0]["function"]
    padded = {**TOOLS[0], "function": {**bare, "strict": None}}
    for form in (TOOLS, json.dumps(TOOLS), [json.dumps(TOOLS[0])], [bare], json.dumps([bare]), [padded]):
        assert read_tools(form) == TOOLS
    for nothing in (None, "", " ", [], "[]", "null"):
        assert read_tools(nothing) == []


@pytest.mark.parametrize("value", ["look_up", "3", [3], "{}x"])
def test_other_tools_are_refused(value: object) -> None:
    with pytest.raises(ConversationError, match="column 'tools': expected a list of tools"):
        read_tools(value)


def test_a_null_in_json_is_meant() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": None}}}
    assert read_tools(json.dumps([tool])) == [tool]
