"""Preference data as public datasets have it, through `datasets.map`."""

from __future__ import annotations

import json
from typing import TypeAlias

import datasets
import pytest
from trl import unpair_preference_dataset
from trl.data_utils import extract_prompt

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import ConversationError, MediaError, MMDatasetsError, PlaceholderError
from mmdatasets.testing import build_processor
from tests.chat.chats import TOOLS, assistant, user

Row: TypeAlias = dict[str, object]

SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


def said(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def mapped(plugin, rows: list[Row] | datasets.Dataset) -> datasets.Dataset:
    dataset = rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_list(rows)
    expected = plugin.preference_features(dataset.features)
    result = dataset.map(plugin.preference_transform, batched=True, batch_size=2, with_indices=True, features=expected)
    assert result.features == expected
    assert dataset.map(plugin.preference_transform, batched=True, batch_size=2).features == expected
    return result


def side(plugin, prompt: list[Row], answer: list[Row], **columns: object) -> Row:
    """A side as a row of messages for supervised fine-tuning, whose prompt says itself that it is not trained."""
    quiet = [{**message, "train": False} if message["role"] == "assistant" else message for message in prompt]
    made = plugin.transform({"messages": [[*quiet, *answer]], **{name: [value] for name, value in columns.items()}})
    return {name: values[0] for name, values in made.items()}


def same(
    plugin, rows: list[Row], expected: list[tuple[list[Row], list[Row], list[Row], Row]], kept: list[str]
) -> None:
    """Asserts that rows become what their sides as rows of messages become, and which columns pass through."""
    found = mapped(plugin, rows)
    for row, (prompt, chosen, rejected, columns) in zip(found, expected, strict=True):
        sides = [side(plugin, prompt, answer, **columns) for answer in (chosen, rejected)]
        for name, one in zip(("chosen", "rejected"), sides, strict=True):
            assert row[f"{name}_ids"] == one["input_ids"]
            assert row[f"{name}_labels"] == one["labels"]
        assert row["media_info"] == sides[0]["media_info"]
        assert row["length"] == max(one["length"] for one in sides)
        assert [image["path"] for image in row["images"]] == columns.get("images", [])
    assert [name for name in found.column_names if name not in plugin.preference_features()] == kept


# ------------------------------------------------------------------------------------------------------- layouts


def test_trl_with_the_prompt_apart(plugin, image_file) -> None:
    """As `trl-lib/rlaif-v` has it; and strings, which become a chat."""
    image = str(image_file(60, 90))
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    rows = [
        {
            "prompt": [{"role": "user", "content": parts}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "Two dogs."}]}],
            "images": [image],
            "score": 1.5,
        }
    ]
    expected = (rows[0]["prompt"], rows[0]["chosen"], rows[0]["rejected"], {"images": [image]})
    same(plugin, rows, [expected], ["score"])
    strings = [{"prompt": "<image>Well?", "chosen": "A cat.", "rejected": "No.", "image": image}]
    expected = ([user("<image>Well?")], [assistant("A cat.")], [assistant("No.")], {"images": [image]})
    same(plugin, strings, [expected], [])


def test_trl_with_the_prompt_within_both(plugin, image_file) -> None:
    """As `trl-lib/ultrafeedback_binarized` has it, and HuggingFaceH4's, where the first question stands beside it."""
    image = str(image_file(60, 90))
    prompt = [SYSTEM, user("<image>What?"), assistant("A cat."), user("Sure?")]
    row = {"chosen": [*prompt, assistant("Yes.")], "rejected": [*prompt, assistant("I am not.")], "images": [image]}
    expected = (prompt, [assistant("Yes.")], [assistant("I am not.")], {"images": [image]})
    same(plugin, [row], [expected], [])
    assert extract_prompt(row)["prompt"] == prompt  # TRL divides it likewise
    beside = {**row, "prompt": "<image>What?", "messages": row["chosen"], "score_chosen": 9.0}
    same(plugin, [beside], [expected], ["messages", "score_chosen"])
    same(plugin, [{**row, "prompt": prompt}], [expected], [])
    # Turns of ShareGPT's kind are read as well.
    shared = [said("human", "<image>What?")]
    turns = [{"chosen": [*shared, said("gpt", "A.")], "rejected": [*shared, said("gpt", "B.")], "images": [image]}]
    same(plugin, turns, [([user("<image>What?")], [assistant("A.")], [assistant("B.")], {"images": [image]})], [])


def test_answers_of_several_messages(plugin) -> None:
    """Chats that part in the middle: what the user says after that is no answer, whatever TRL makes of it."""
    prompt = [user("A?")]
    chosen = [assistant("First."), user("Go on."), assistant("More.")]
    rejected = [assistant("Nothing."), user("Go on."), assistant("No.")]
    rows = [{"chosen": [*prompt, *chosen], "rejected": [*prompt, *rejected]}]
    same(plugin, rows, [(prompt, chosen, rejected, {})], [])
    labels = [token for token in mapped(plugin, rows)[0]["chosen_labels"] if token != -100]
    assert plugin.processor.tokenizer.decode(labels) == "First.<|im_end|>\nMore.<|im_end|>\n"


def test_llama_factory_rankings(plugin, image_file) -> None:
    """As its `rlhf_v` (images) and `dpo_en_demo` have them, and its Alpaca form."""
    image = str(image_file(60, 90))
    rows = [
        {
            "conversations": [said("human", "<image>What?")],
            "chosen": said("gpt", "A cat."),
            "rejected": said("gpt", "Dogs."),
            "images": [image],
        },
        {
            "conversations": [said("human", "A?"), said("gpt", "B."), said("human", "C?")],
            "chosen": said("gpt", "D."),
            "rejected": said("gpt", "E."),
            "images": [],
        },
    ]
    expected = [
        ([user("<image>What?")], [assistant("A cat.")], [assistant("Dogs.")], {"images": [image]}),
        ([user("A?"), assistant("B."), user("C?")], [assistant("D.")], [assistant("E.")], {}),
    ]
    same(plugin, rows, expected, [])
    as_messages = [
        {
            "messages": [user("<image>What?")],
            "chosen": assistant("A cat."),
            "rejected": assistant("Dogs."),
            "images": [image],
        }
    ]
    same(plugin, as_messages, expected[:1], [])
    alpaca = [
        {
            "instruction": "What?",
            "input": "<image>",
            "history": [["A?", "B."]],
            "system": "Be brief.",
            "chosen": "A cat.",
            "rejected": "Dogs.",
            "images": [image],
        }
    ]
    prompt = [SYSTEM, user("A?"), assistant("B."), user("What?\n<image>")]
    same(plugin, alpaca, [(prompt, [assistant("A cat.")], [assistant("Dogs.")], {"images": [image]})], [])


def test_tools_reach_the_template() -> None:
    plugin = auto_plugin(build_processor("qwen3_vl"))
    call = {"name": "look_up", "arguments": {"city": "Rome"}}
    rows = [
        {
            "conversations": [
                said("human", "Where?"),
                said("function_call", json.dumps(call)),
                said("observation", "It."),
            ],
            "chosen": said("gpt", "There."),
            "rejected": said("gpt", "Nowhere."),
            "tools": json.dumps(TOOLS),
        }
    ]
    called = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    prompt = [user("Where?"), called, {"role": "tool", "content": "It."}]
    same(plugin, rows, [(prompt, [assistant("There.")], [assistant("Nowhere.")], {"tools": TOOLS})], [])


def verdicts(plugin, rows: list[Row], expected: list[tuple[list[Row], list[Row], Row]]) -> datasets.Dataset:
    found = mapped(plugin, rows)
    assert found.features["label"] == datasets.Value("bool")
    for row, (prompt, answer, columns) in zip(found, expected, strict=True):
        one = side(plugin, prompt, answer, **columns)
        for name in ("input_ids", "labels", "length", "media_info"):
            assert row[name] == one[name], name
    return found


def test_kto(plugin, image_file) -> None:
    """As TRL has it (`trl-lib/kto-mix-14k`), and LLaMA-Factory (`kto_en_demo`)."""
    image = str(image_file(60, 90))
    prompt = [user("<image>A?"), assistant("B."), user("C?")]
    rows = [
        {"prompt": prompt, "completion": [assistant(text)], "label": good, "images": [image], "id": 1}
        for text, good in (("Yes.", True), ("No.", False))
    ]
    expected = [(prompt, [assistant(text)], {"images": [image]}) for text in ("Yes.", "No.")]
    found = verdicts(plugin, rows, expected)
    assert found["label"][:] == [True, False]
    assert found.column_names[0] == "id"
    for name in ("label", "kto_tag"):
        chats = [{"messages": [*prompt, assistant("Yes.")], name: 1, "images": [image]}]
        found = verdicts(plugin, chats, expected[:1])
        assert found["label"][:] == [True]
        assert "kto_tag" not in found.column_names
    turns = [said("human", "<image>A?"), said("gpt", "B."), said("human", "C?"), said("gpt", "Yes.")]
    verdicts(plugin, [{"conversations": turns, "label": False, "image": image}], expected[:1])
    alpaca = [{"instruction": "C?", "input": "", "output": "Yes.", "kto_tag": True, "history": [["<image>A?", "B."]]}]
    verdicts(plugin, [{**row, "images": [image]} for row in alpaca], expected[:1])


def test_pairs_that_trl_takes_apart(plugin, image_file) -> None:
    rows = [
        {
            "prompt": [user("<image>A?")],
            "chosen": [assistant("B.")],
            "rejected": [assistant("C.")],
            "images": [str(image_file(60, 90))],
        }
    ]
    pair, apart = mapped(plugin, rows)[0], mapped(plugin, unpair_preference_dataset(datasets.Dataset.from_list(rows)))
    assert apart["label"][:] == [True, False]
    assert apart["input_ids"][:] == [pair["chosen_ids"], pair["rejected_ids"]]
    assert apart["labels"][:] == [pair["chosen_labels"], pair["rejected_labels"]]


def test_what_messages_say_of_training(plugin) -> None:
    """Of a prompt nothing is trained, whatever it says; an answer may leave messages of its own out."""
    prompt = [user("A?"), assistant("B.", train=True), user("C?")]
    answer = [assistant("D.", train=False), assistant("E.")]
    rows = [{"prompt": prompt, "chosen": answer, "rejected": [assistant("F.")]}]
    found = mapped(plugin, rows)[0]
    decode = plugin.processor.tokenizer.decode
    assert decode([token for token in found["chosen_labels"] if token != -100]) == "E.<|im_end|>\n"
    assert decode([token for token in found["rejected_labels"] if token != -100]) == "F.<|im_end|>\n"


# ------------------------------------------------------------------------------------------------ forms of media


def test_references_within_the_prompt(plugin, image_file) -> None:
    data = image_file(60, 90).read_bytes()
    part = {"type": "image_url", "image_url": {"url": str(image_file(60, 90))}}
    prompt = [{"role": "user", "content": [part, {"type": "text", "text": "Well?"}]}]
    row = {"chosen": [*prompt, assistant("A.")], "rejected": [*prompt, assistant("B.")]}
    made = plugin.preference_transform({name: [value] for name, value in row.items()})
    assert made["media_info"][0][0]["width"] == 60
    assert len(made["images"][0]) == 1
    both = [
        [{"role": "user", "content": [{"type": "image", "image": copy}]}, assistant(text)]
        for copy, text in ((data, "A."), (bytes(bytearray(data)), "B."))
    ]
    same_bytes = plugin.preference_transform({"chosen": [both[0]], "rejected": [both[1]]})
    assert same_bytes["images"][0] == [{"path": None, "bytes": data}]


def test_streams_and_saved_datasets(plugin, image_file, tmp_path) -> None:
    rows = [
        {
            "prompt": [user("<image>A?")],
            "chosen": [assistant("B.")],
            "rejected": [assistant("C.")],
            "images": [str(image_file(60, 90))],
        }
    ] * 3
    found = mapped(plugin, rows)
    dataset = datasets.Dataset.from_list(rows)
    stream = dataset.to_iterable_dataset().map(
        plugin.preference_transform, batched=True, remove_columns=["prompt", "chosen", "rejected"]
    )
    assert [row["chosen_ids"] for row in stream] == found["chosen_ids"][:]
    found.save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved")
    assert again.features == found.features
    found.to_parquet(tmp_path / "a.parquet")
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))
    assert parquet.features == found.features
    batch = plugin.preference_collator()
    assert all(
        (
            batch(one[:2] if isinstance(one, list) else [one[0], one[1]])["pixel_values"]
            == batch([found[0], found[1]])["pixel_values"]
        ).all()
        for one in (again, parquet)
    )


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"messages": [user("x")]}, ConversationError, "no columns of preference data: expected .* found messages"),
        ({"text": "x", "label": True}, ConversationError, "no columns of preference data.*found text, label"),
        ({"chosen": "a", "rejected": "b"}, ConversationError, "row 0.*column 'chosen': expected a whole chat"),
        ({"prompt": "x", "chosen": None, "rejected": "b"}, ConversationError, "row 0.*'chosen': expected a list"),
        ({"prompt": "x", "chosen": [], "rejected": []}, ConversationError, "'chosen': the answer is an empty list"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, ConversationError, "column 'prompt': expected a list"),
        (
            {"prompt": "x", "chosen": [{"role": "tool", "content": "a"}], "rejected": "b"},
            ConversationError,
            "'chosen': it has no message of the assistant",
        ),
        (
            {"messages": [user("x")], "chosen": [user("y"), assistant("z")], "rejected": [user("y"), assistant("b")]},
            ConversationError,
            "do not both begin with what the column 'messages' has",
        ),
        (
            {"instruction": "x", "chosen": [assistant("a"), assistant("b")], "rejected": [assistant("a")]},
            ConversationError,
            "'chosen': expected one answer, as a string",
        ),
        ({"prompt": "x", "completion": "a", "label": 3}, ConversationError, "'label': expected true or false, got 3"),
        ({"messages": [user("x")], "label": True}, ConversationError, "no message of the assistant"),
        ({"prompt": "x", "chosen": "", "rejected": [assistant("b", train=False)]}, ConversationError, "no token is"),
        (
            {"prompt": "<image>", "chosen": "a", "rejected": "b", "images": ["a", "b"]},
            PlaceholderError,
            "row 0.*1 image pl",
        ),
        ({"prompt": "<audio>", "chosen": "a", "rejected": "b", "audios": ["a.wav"]}, MediaError, "takes no audios"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "chosen_ids": [1]}, ConversationError, "would overwrite"),
    ],
)
def test_errors(row: Row, error: type[MMDatasetsError], message: str, plugin) -> None:
    columns = {name: [value] for name, value in row.items()}
    with pytest.raises(error, match=message):
        plugin.preference_transform(columns, [0])


def test_sides_with_different_media_are_refused(plugin, image_file) -> None:
    def chat(size: int, text: str) -> list[Row]:
        image = {"type": "image", "image": str(image_file(size, 90))}
        return [{"role": "user", "content": [image, {"type": "text", "text": "?"}]}, assistant(text)]

    with pytest.raises(
        ConversationError, match=r"row 7, column 'rejected': the chosen side has 1 image\(s\), the rej"
    ):
        plugin.preference_transform({"chosen": [chat(60, "A.")], "rejected": [chat(80, "B.")]}, [7])
    with pytest.raises(ConversationError, match="the rejected one no media"):
        plugin.preference_transform({"chosen": [chat(60, "A.")], "rejected": [[user("?"), assistant("B.")]]}, [7])


def test_a_layout_can_be_given(plugin) -> None:
    processor = plugin.processor
    rows = {"prompt": ["x"], "conversations": [[said("human", "y")]], "chosen": ["a"], "rejected": ["b"]}
    given = get_mm_plugin("qwen2_vl", processor=processor, layout="conversations")
    wanted = plugin.preference_transform({"prompt": ["y"], "chosen": ["a"], "rejected": ["b"]})
    assert given.preference_transform(rows) == wanted
    named = get_mm_plugin("qwen2_vl", processor=processor, messages_column="chat")
    assert named.preference_transform({**rows, "chat": [[user("y")]]}) == wanted
    with pytest.raises(
        ConversationError, match="layout='conversations' needs the column 'conversations'; found prompt"
    ):
        given.preference_transform({name: rows[name] for name in ("prompt", "chosen", "rejected")})
    with pytest.raises(ConversationError, match="layout='text', but preferences are about answers"):
        get_mm_plugin("qwen2_vl", processor=processor, layout="text").preference_transform(rows)
    with pytest.raises(ConversationError, match="train_on='all'"):
        get_mm_plugin("qwen2_vl", processor=processor, train_on="all").preference_transform(rows)
