"""Plain text, placeholders of other kinds, and media within the parts of every layout, through `datasets`."""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import datasets
import PIL.Image
import pytest
import torch
from datasets.fingerprint import Hasher
from trl.data_utils import prepare_multimodal_messages

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import ConversationError, PlaceholderError
from mmdatasets.testing import build_processor
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.video import VideoSpec, write_video
from tests.chat.chats import assistant, user

Row: TypeAlias = dict[str, object]

OWN = ["input_ids", "labels", "length", "media_info"]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture(scope="module")
def omni():
    return auto_plugin(build_processor("qwen2_5_omni"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("media")
    return {
        "video": write_video(folder / "a.mp4", VideoSpec(num_frames=20, width=64, height=64)),
        "audio": write_audio(folder / "a.wav", sampling_rate=16_000, duration_s=1.0),
    }


def one(plugin, row: Row) -> Row:
    return {name: values[0] for name, values in plugin.transform({key: [row[key]] for key in row}).items()}


def mapped(plugin, rows: list[Row], **kwargs: object) -> datasets.Dataset:
    dataset = datasets.Dataset.from_list(rows, **kwargs)
    features = plugin.features(dataset.features)
    return dataset.map(plugin.transform, batched=True, batch_size=2, with_indices=True, features=features)


# ---------------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3", "llava_next", "idefics3", "internvl", "mllama"])
def test_plain_text_is_what_the_processor_makes_of_it(family: str, image_file) -> None:
    """The call of the processor on the text with its own placeholders, and the end of text that TRL adds as well."""
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    image = str(image_file(60, 80))
    row = one(plugin, {"text": "Photo: <image> of a cat.", "images": [image]})
    before, after = plugin.engine.markup("image", 0)
    written = f"{before}{plugin.engine.runner.placeholders['image']}{after}"
    text = f"Photo: {written} of a cat.{processor.tokenizer.eos_token}"
    theirs = processor(text=[text], images=[[PIL.Image.open(image).convert("RGB")]], return_tensors="pt")
    assert row["input_ids"] == theirs["input_ids"][0].tolist()
    trained = [token for token in row["labels"] if token != -100]
    assert processor.tokenizer.decode(trained).split() == f"Photo: of a cat.{processor.tokenizer.eos_token}".split()
    batch = plugin.collator()([row])
    assert torch.equal(batch["pixel_values"], theirs["pixel_values"])


def test_plain_text_in_a_dataset(plugin, image_file) -> None:
    image = str(image_file(60, 80))
    rows = [
        {"text": "No image.", "images": [], "url": "a"},
        {"text": "<image><image>", "images": [image, image], "url": "b"},
        {"text": "literally <image>", "images": [], "url": "c"},
    ]
    found = mapped(plugin, rows)
    assert found.column_names == ["url", *OWN, "images", "videos", "video_frames", "made_by"]
    decode = plugin.processor.tokenizer.decode
    assert decode(found[0]["input_ids"]) == "No image.<|im_end|>"
    assert found[0]["labels"] == found[0]["input_ids"]
    assert [item["num_tokens"] for item in found[1]["media_info"]] == [6, 6]
    assert decode(found[2]["input_ids"]) == "literally <image><|im_end|>"


def test_plain_text_of_another_name_and_of_tokenizers() -> None:
    tokenizer = build_processor("qwen2_vl").tokenizer
    plugin = get_mm_plugin("base", processor=tokenizer, layout="text", messages_column="body")
    row = one(plugin, {"body": "Some text.", "text": "not this"})
    assert row["input_ids"] == tokenizer("Some text.<|im_end|>")["input_ids"]


def test_control_tokens_in_plain_text(plugin) -> None:
    """Text that was rendered before counts as such where control tokens are allowed; else they are text."""
    rendered = "<|im_start|>user\nHi<|im_end|>\n"
    tokenizer = plugin.processor.tokenizer
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert start not in one(plugin, {"text": rendered})["input_ids"]
    allowing = get_mm_plugin("qwen2_vl", processor=plugin.processor, allowed_special="all")
    assert one(allowing, {"text": rendered})["input_ids"] == tokenizer(f"{rendered}<|im_end|>")["input_ids"]
    twice = one(allowing, {"text": "Hi<|im_end|>"})["input_ids"]
    assert twice == tokenizer("Hi<|im_end|>")["input_ids"]


def test_plain_text_errors(plugin) -> None:
    with pytest.raises(ConversationError, match="row 0 of the batch, column 'text': expected a string, got NoneType"):
        plugin.transform({"text": [None]})
    for train_on in ("last", "completion"):
        other = get_mm_plugin("qwen2_vl", processor=plugin.processor, train_on=train_on)
        with pytest.raises(
            ConversationError, match=f"row 0.*train_on='{train_on}' names messages, and plain text has"
        ):
            other.transform({"text": ["x"]})
    assert one(get_mm_plugin("qwen2_vl", processor=plugin.processor, train_on="all"), {"text": "x"}) == one(
        plugin, {"text": "x"}
    )
    with pytest.raises(PlaceholderError, match=r"1 image placeholder\(s\).*the row has 2 image\(s\)"):
        plugin.transform({"text": ["<image>"], "images": [["a", "b"]]})


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "gemma3"])
def test_a_processor_without_a_chat_template_takes_plain_text(family: str, image_file) -> None:
    processor = build_processor(family)
    templated = one(auto_plugin(processor), {"text": "<image>x", "image": str(image_file(60, 80))})
    processor.chat_template = processor.tokenizer.chat_template = None
    assert one(auto_plugin(processor), {"text": "<image>x", "image": str(image_file(60, 80))}) == templated


# -------------------------------------------------------------------------------------------------- placeholders


def test_placeholders_can_be_chosen(image_file) -> None:
    processor = build_processor("qwen2_vl")
    image = str(image_file(60, 80))
    plugin = auto_plugin(processor)
    expected = one(plugin, {"messages": [user("<image>A <image>?"), assistant("B")], "images": [image, image]})
    for placeholder in ("[IMG]", "<img>", "<|vision_start|><|image_pad|><|vision_end|>"):
        own = get_mm_plugin("qwen2_vl", processor=processor, image_placeholder=placeholder)
        chat = [user(f"{placeholder}A {placeholder}?"), assistant("B")]
        assert one(own, {"messages": chat, "images": [image, image]}) == expected
        literal = one(own, {"messages": [user(f"{placeholder}<image>"), assistant("B")], "images": [image]})
        assert processor.tokenizer.decode(literal["input_ids"]).count("<image>") == 1
        with pytest.raises(PlaceholderError) as caught:
            own.transform({"messages": [chat], "images": [[image]]}, [5])
        assert str(caught.value).startswith(
            f"row 5: the messages have 2 image placeholder(s) (0 image part(s), 2 {placeholder!r}"
        )
        assert "the row has 1 image(s)" in str(caught.value)
        with pytest.raises(PlaceholderError, match="but the rows have no column with images"):
            own.transform({"messages": [chat]})
        copy = pickle.loads(pickle.dumps(own))
        assert copy.image_placeholder == placeholder
        assert one(copy, {"messages": chat, "images": [image, image]}) == expected
        assert Hasher.hash(copy.transform) == Hasher.hash(own.transform) != Hasher.hash(plugin.transform)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_placeholder": ""}, "image_placeholder must be a text"),
        ({"image_placeholder": "<video>"}, "stands within"),
        ({"image_placeholder": "<audio", "audio_placeholder": "<audio>"}, "image_placeholder='<audio' stands within"),
    ],
)
def test_placeholders_that_cannot_be_told_apart_are_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_mm_plugin("qwen2_vl", **fields)


# --------------------------------------------------------------------------------------- media within the parts


def uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def layouts_of(question: object) -> dict[str, Row]:
    """A chat with this content of the user's, in each layout that has parts."""
    return {
        "messages": {"messages": [user(question), assistant("Yes.")]},
        "conversations": {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]},
        "prompt_completion": {"prompt": [user(question)], "completion": "Yes."},
    }


@pytest.mark.parametrize("layout", ["messages", "conversations", "prompt_completion"])
def test_openai_parts(layout: str, omni, files, image_file) -> None:
    image = image_file(60, 80)
    sound = {"data": base64.b64encode(files["audio"].read_bytes()).decode(), "format": "wav"}
    text = {"type": "text", "text": "What?"}
    in_parts: list[Row] = [
        {"type": "image_url", "image_url": {"url": uri(image, "image/jpeg"), "detail": "low"}},
        {"type": "video_url", "video_url": {"url": uri(files["video"], "video/mp4")}},
        {"type": "input_audio", "input_audio": sound},
        {"type": "audio_url", "audio_url": str(files["audio"])},
        text,
    ]
    by_path = [
        {"type": "image", "image": str(image)},
        {"type": "video", "video": str(files["video"])},
        {"type": "audio", "audio": str(files["audio"])},
        {"type": "audio", "audio": str(files["audio"])},
        text,
    ]
    row = one(omni, layouts_of(in_parts)[layout])
    expected = one(omni, layouts_of(by_path)["messages"])
    assert {name: row[name] for name in OWN} == {name: expected[name] for name in OWN}
    ours, theirs = omni.collator()([row]), omni.collator()([expected])
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    in_arrow = mapped(omni, [layouts_of(in_parts)[layout]] * 2, on_mixed_types="use_json")
    assert in_arrow[1]["input_ids"] == expected["input_ids"]


def test_llama_factory_videos_and_audio(omni, files) -> None:
    """As its `mllm_video_demo`, `mllm_audio_demo` and `mllm_video_audio_demo` have them."""
    video, audio = str(files["video"]), str(files["audio"])
    rows = [
        {"messages": [user("<video>Why?"), assistant("So.")], "videos": [video], "audios": []},
        {"messages": [user("<audio>What?"), assistant("It.")], "videos": [], "audios": [audio]},
        {"messages": [user("<video><audio>Hm?"), assistant("Ah.")], "videos": [video], "audios": [audio]},
    ]
    found = mapped(omni, rows)
    assert [[item["modality"] for item in items] for items in found["media_info"]] == [
        ["video"],
        ["audio"],
        ["video", "audio"],
    ]
    singular = [
        {
            "messages": row["messages"],
            "video": next(iter(row["videos"]), None),
            "audio": next(iter(row["audios"]), None),
        }
        for row in rows
    ]
    assert mapped(omni, singular)["input_ids"][:] == found["input_ids"][:]
    named = auto_plugin(omni.processor, videos_column="clips", audios_column="sounds", messages_column="chat")
    renamed = [{"chat": row["messages"], "clips": row["videos"], "sounds": row["audios"]} for row in rows]
    assert mapped(named, renamed)["input_ids"][:] == found["input_ids"][:]


# ----------------------------------------------------------------------------- media that has no place, or is none


def test_trl_datasets_whose_images_have_no_place_in_the_text(image_file) -> None:
    """As `trl-lib/llava-instruct-mix` and `trl-lib/rlaif-v` have them; TRL's own function says where images stand."""
    processor = build_processor("qwen2_vl")
    placing = auto_plugin(processor, unplaced_media="first_user")
    image = str(image_file(60, 80))
    prompt, answers = [user("What is it?")], [[assistant("A cat.")], [assistant("A dog.")]]
    chats = [prepare_multimodal_messages(prompt + answer, images=[image]) for answer in answers]
    theirs = [processor.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"][0] for chat in chats]
    row = {"prompt": prompt, "completion": answers[0], "images": [image]}
    found = mapped(placing, [row, {**row, "images": []}])
    assert found[0]["input_ids"] == theirs[0]
    assert [len(items) for items in found["images"]] == [1, 0]
    pairs = datasets.Dataset.from_list(
        [{"prompt": prompt, "chosen": answers[0], "rejected": answers[1], "images": [image]}]
    ).map(placing.preference_transform, batched=True)
    assert [pairs[0]["chosen_ids"], pairs[0]["rejected_ids"]] == theirs
    verdicts = datasets.Dataset.from_list([{**row, "label": True}]).map(placing.preference_transform, batched=True)
    assert verdicts[0]["input_ids"] == theirs[0]
    with pytest.raises(PlaceholderError, match=r"row 0: the messages have 0 image.*unplaced_media='first_user'"):
        mapped(auto_plugin(processor), [row])
    with pytest.raises(ValueError, match="unplaced_media='last' is none of 'error', 'first_user'"):
        auto_plugin(processor, unplaced_media="last")


@pytest.mark.parametrize("nothing", [None, "", [], [None], [""], [{"path": None, "bytes": None}], {"path": ""}])
def test_there_are_many_ways_to_have_no_image(nothing: object, plugin, image_file) -> None:
    chat = [user("What?"), assistant("This.")]
    name = "images" if isinstance(nothing, list) else "image"
    assert one(plugin, {"messages": chat, name: nothing}) == one(plugin, {"messages": chat, "images": []})
    asked = {"messages": [user("<image>What?"), assistant("This.")], name: nothing}
    if nothing == []:  # which says that there is none
        assert one(plugin, asked)["media_info"] == []
    else:
        with pytest.raises(PlaceholderError, match=r"1 '<image>', but the rows have no column with images"):
            one(plugin, asked)
    rows = [
        {"messages": [user("<image>What?"), assistant("This.")], "image": str(image_file(60, 80))},
        {"messages": chat, "image": "" if nothing == "" else None},
    ]
    assert [len(items) for items in mapped(plugin, rows)["images"]] == [1, 0]


# ----------------------------------------------------------------------------------------------- Arrow and back


def jpeg(path: Path) -> Row:
    return {"bytes": path.read_bytes(), "path": path.name}


STORES: dict[str, Callable[[datasets.Dataset, Path], datasets.Dataset]] = {
    "map": lambda dataset, folder: dataset.map(lambda row: row),
    "parquet": lambda dataset, folder: (
        dataset.to_parquet(str(folder / "a.parquet")),
        datasets.Dataset.from_parquet(str(folder / "a.parquet"), cache_dir=str(folder)),
    )[1],
    "disk": lambda dataset, folder: (dataset.save_to_disk(folder / "d"), datasets.load_from_disk(folder / "d"))[1],
    "jsonl": lambda dataset, folder: (
        dataset.to_json(folder / "a.jsonl"),
        datasets.load_dataset("json", data_files=str(folder / "a.jsonl"), split="train", cache_dir=str(folder)),
    )[1],
}


@pytest.mark.parametrize("store", STORES)
def test_null_and_empty_and_mixed_contents_survive(store: str, plugin, image_file, tmp_path) -> None:
    """Strings and parts, no images and none known, keys that some messages have: as they were before."""
    image = str(image_file(60, 80))
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    rows: list[Row] = [
        {"messages": [user("literally <image>"), assistant("A.")], "images": []},
        {"messages": [user(parts), assistant("B.", weight=0), user("More?"), assistant("C.")], "images": [image]},
        {"messages": [user("No image."), assistant("D.")], "images": None},
        {"messages": [user("<image>"), assistant("E.", train=False), assistant("F.")], "images": [image]},
    ]
    expected = [one(plugin, row) for row in rows]
    dataset = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    stored = STORES[store](dataset, tmp_path)
    found = stored.map(plugin.transform, batched=True, batch_size=3, features=plugin.features(stored.features))
    assert found["input_ids"][:] == [row["input_ids"] for row in expected]
    assert found["labels"][:] == [row["labels"] for row in expected]
    unknown = {"messages": [user("<image>"), assistant("D.")], "images": None}
    with pytest.raises(PlaceholderError, match="no column with images"):
        STORES[store](datasets.Dataset.from_list([rows[1], unknown], on_mixed_types="use_json"), tmp_path / "x").map(
            plugin.transform, batched=True
        )


@pytest.mark.parametrize("store", ["parquet", "disk"])
def test_a_dataset_with_embedded_media(store: str, omni, files, image_file, tmp_path) -> None:
    """What a hub has: files in the rows. Mapped before or after it is stored, the rows and batches are the same."""
    image = image_file(60, 80)
    rows = [
        {
            "messages": [user("<image><audio>What?"), assistant("It.")],
            "images": [jpeg(image)],
            "audios": [jpeg(files["audio"])],
        },
        {"messages": [user("Well?"), assistant("No.")], "images": [], "audios": []},
    ]
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "images": datasets.List(datasets.Image()),
            "audios": datasets.List(datasets.Audio(decode=False)),
        }
    )
    dataset = datasets.Dataset.from_list(rows, features=features)
    first = dataset.map(omni.transform, batched=True, features=omni.features(dataset.features))
    stored = STORES[store](dataset, tmp_path)
    assert stored.features["images"] == features["images"]
    second = stored.map(omni.transform, batched=True, features=omni.features(stored.features))
    (tmp_path / "again").mkdir()
    third = STORES[store](first, tmp_path / "again")
    assert first.features == second.features == third.features
    batches = [omni.collator()([dataset[0], dataset[1]]) for dataset in (first, second, third)]
    for batch in batches[1:]:
        assert all(torch.equal(batch[name], batches[0][name]) for name in batches[0])


def test_images_of_pillow_in_a_stream(plugin, image_file) -> None:
    buffer = io.BytesIO()
    PIL.Image.open(image_file(60, 80)).save(buffer, "png")
    dataset = datasets.Dataset.from_list([{"text": "<image>", "image": PIL.Image.open(buffer)}])
    row = next(iter(dataset.to_iterable_dataset().map(plugin.transform, batched=True)))
    assert row["input_ids"] == mapped(plugin, [{"text": "<image>", "image": PIL.Image.open(buffer)}])[0]["input_ids"]
