"""Batches of preference data: equal to those of TRL's own collators, media decoded once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import PIL.Image
import pytest
import torch
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import CollateError
from mmdatasets.media import image as image_module
from mmdatasets.media import prober as prober_module
from mmdatasets.testing import build_processor, get_spec, list_processors
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.standins import build_standin, list_standins
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms import media as media_module
from tests.chat.chats import user

Row: TypeAlias = dict[str, object]

# Families whose template writes bos where it has one: TRL's collators have the processor add none.
EQUAL_TO_TRL = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl"]
PER_TOKEN = ("input_ids", "attention_mask", "completion_mask", "token_type_ids", "mm_token_type_ids")
WITH_IMAGES = [name for name in list_processors() if get_spec(name).plugin != "generic" and name != "qwen2_audio"]


def said(role: str, text: str, image: bool = False) -> Row:
    return {"role": role, "content": [{"type": "image"}] * image + [{"type": "text", "text": text}]}


@pytest.fixture
def pairs(image_file) -> list[Row]:
    """Rows as TRL has them: `trl-lib/rlaif-v` and the like."""
    return [
        {
            "images": [PIL.Image.open(image_file(60, 80)).convert("RGB")],
            "prompt": [said("user", "What is it?", image=True)],
            "chosen": [said("assistant", "A cat.")],
            "rejected": [said("assistant", "It is a large dog, I think.")],
        },
        {
            "images": [PIL.Image.open(image_file(120, 50)).convert("RGB")],
            "prompt": [said("user", "Look.", image=True), said("assistant", "I see."), said("user", "So what is it?")],
            "chosen": [said("assistant", "A photograph of a cat on a sofa.")],
            "rejected": [said("assistant", "No.")],
        },
    ]


def transformed(plugin, rows: Sequence[Row]) -> list[Row]:
    columns = plugin.preference_transform({name: [row[name] for row in rows] for name in rows[0]})
    return [{name: values[index] for name, values in columns.items()} for index in range(len(rows))]


def unpaired(pairs: Sequence[Row]) -> list[Row]:
    return [
        {"images": row["images"], "prompt": row["prompt"], "completion": row["chosen"], "label": index == 0}
        for index, row in enumerate(pairs)
    ]


# ------------------------------------------------------------------------------------------ TRL's own collators


@pytest.mark.parametrize("family", EQUAL_TO_TRL)
def test_the_batch_for_dpo_is_that_of_trl(family: str, pairs) -> None:
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    ours = plugin.preference_collator()(transformed(plugin, pairs))
    theirs = DataCollatorForVisionPreference(processor)(copy.deepcopy(pairs))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("family", EQUAL_TO_TRL)
def test_the_batch_for_kto_is_that_of_trl_but_for_the_padding(family: str, pairs) -> None:
    """Mismatched sequences are padded to the others' length, as what the model gets beside them is."""
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    rows = unpaired(pairs)
    ours = plugin.preference_collator("kto")(transformed(plugin, rows))
    theirs = DataCollatorForVisionUnpairedPreference(processor)(copy.deepcopy(rows))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        mine = ours[name]
        if name.removeprefix("KL_") in PER_TOKEN:
            mine, rest = mine[:, : value.shape[1]], mine[:, value.shape[1] :]
            assert not rest.numel() or len(rest.unique()) == 1, name
        assert torch.equal(mine, value), name
    alone = plugin.preference_collator("kto", with_kl=False)(transformed(plugin, rows))
    assert set(alone) == {name for name in ours if not name.startswith("KL_")}


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "gemma3", "idefics3"])
def test_each_side_is_what_the_processor_makes_of_it(family: str, pairs) -> None:
    """Where TRL leaves the bos out that the processor's call adds (LLaVA-NeXT), this is what tells."""
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    rows = transformed(plugin, pairs)
    batch = plugin.preference_collator()(rows)
    for number, (side, row) in enumerate((side, row) for side in ("chosen", "rejected") for row in pairs):
        chat = [*row["prompt"], *row[side]]
        text = processor.apply_chat_template(chat, tokenize=False)
        bos = processor.tokenizer.bos_token
        adds = not (bos and text.startswith(bos))
        alone = processor(text=[text], images=[row["images"]], return_tensors="pt", add_special_tokens=adds)
        length = int(batch["attention_mask"][number].sum())
        ids = batch["input_ids"][number, :length]
        assert torch.equal(ids, alone["input_ids"][0])
        trained = processor.tokenizer.decode(ids[batch["completion_mask"][number, :length].bool()])
        answer = row[side][0]["content"][0]["text"]
        assert trained.strip().startswith(answer)
        assert len(trained) <= len(answer) + 20


# ------------------------------------------------------------------------------------------------- shared media


def as_one_row_each(rows: Sequence[Row]) -> list[Row]:
    """The sides as rows for supervised fine-tuning, each with the media: all chosen ones, then all rejected ones."""
    return [
        {**row, "input_ids": row[f"{side}_ids"], "labels": row[f"{side}_labels"]}
        for side in ("chosen", "rejected")
        for row in rows
    ]


def assert_same(ours: object, theirs: object, name: str) -> None:
    if isinstance(theirs, Mapping):
        assert set(ours) - {"labels"} == set(theirs) - {"labels"}
        for key in theirs:
            assert_same(ours[key], theirs[key], key)
    elif isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), name
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other, name)
    else:
        assert ours == theirs, name


def check_repeated(plugin, rows: Sequence[Row]) -> None:
    """Asserts that what is processed once and repeated is what is processed twice."""
    mapped = transformed(plugin, rows)
    ours = plugin.preference_collator()(mapped)
    theirs = plugin.collator(padding_side="right")(as_one_row_each(mapped))
    mask = theirs.pop("labels") != -100
    assert torch.equal(ours.pop("completion_mask"), mask.long())
    assert_same(dict(ours), dict(theirs), "batch")


@pytest.mark.parametrize("family", [*WITH_IMAGES, *list_standins()])
def test_media_that_is_repeated_equals_media_processed_twice(family: str, image_file) -> None:
    processor = build_standin(family) if family in list_standins() else build_processor(family)
    plugin = auto_plugin(processor)
    rows = [
        {
            "images": [str(image_file(*size)) for size in sizes],
            "prompt": [user("<image>" * len(sizes) + "Well?")],
            "chosen": "A much longer answer than the other one.",
            "rejected": "No.",
        }
        for sizes in ([(60, 80)], [], [(130, 50), (40, 40)])
    ]
    if family == "paligemma":
        rows.pop(1)
    check_repeated(plugin, rows)


@pytest.mark.parametrize(
    "family", ["qwen2_vl", "internvl", "qwen2_5_omni", "llava_next_video", "video_llava", "minicpm_v", "moss_vl"]
)
def test_videos_that_are_repeated(family: str, tmp_path) -> None:
    clips = [str(write_video(tmp_path / f"{n}.mp4", VideoSpec(num_frames=n, width=64, height=64))) for n in (20, 30)]
    rows = [
        {"videos": [clip], "prompt": [user("<video>Well?")], "chosen": "A longer answer.", "rejected": "No."}
        for clip in clips
    ]
    processor = build_standin(family) if family in list_standins() else build_processor(family)
    check_repeated(auto_plugin(processor), rows)


@pytest.mark.parametrize("family", ["qwen2_audio", "qwen2_5_omni"])
def test_audio_that_is_repeated(family: str, tmp_path) -> None:
    sounds = [str(write_audio(tmp_path / f"{n}.wav", sampling_rate=16_000, duration_s=n)) for n in (0.5, 1.5)]
    rows = [
        {"audios": [sound], "prompt": [user("<audio>Well?")], "chosen": "A longer answer.", "rejected": "No."}
        for sound in sounds
    ]
    plugin = auto_plugin(build_processor(family))
    check_repeated(plugin, rows)
    assert "images" in plugin.preference_features()  # which is how TRL's trainers know that there is media


@pytest.mark.parametrize("trainer", ["dpo", "reward", "kto"])
def test_each_item_is_decoded_and_processed_once(trainer: str, image_file, tmp_path, monkeypatch) -> None:
    clip = str(write_video(tmp_path / "a.mp4", VideoSpec(num_frames=20, width=64, height=64)))
    rows = [
        {
            "images": [str(image_file(60 + 20 * index, 80))],
            "videos": [clip] if index else [],
            "prompt": [user("<image>" + "<video>" * index + "Well?")],
            "chosen": "Yes.",
            "rejected": "No.",
        }
        for index in range(2)
    ]
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = transformed(plugin, rows)
    seen: list[str] = []
    for module, name in ((media_module, "decode_image"), (media_module, "decode_frames")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real, name=name: (seen.append(name), real(*args))[1])
    processed: list[int] = []
    real_process = type(plugin).process_media
    monkeypatch.setattr(
        type(plugin),
        "process_media",
        lambda self, engine, media: (processed.append(sum(map(len, media))), real_process(self, engine, media))[1],
    )
    batch = plugin.preference_collator(trainer)(mapped)
    assert sorted(seen) == ["decode_frames", "decode_image", "decode_image"]
    assert processed == [3]
    assert len(batch["image_grid_thw"]) == 4
    assert len(batch["video_grid_thw"]) == 2
    assert image_module.decode_image is not media_module.decode_image


def test_headers_are_read_once_for_both_sides(image_file, monkeypatch) -> None:
    seen = []
    real = prober_module.probe_image
    monkeypatch.setattr(prober_module, "probe_image", lambda *args: (seen.append(1), real(*args))[1])
    row = {"images": [str(image_file(60, 80))], "prompt": [user("<image>?")], "chosen": "Yes.", "rejected": "No."}
    transformed(auto_plugin(build_processor("qwen2_vl")), [row])
    assert len(seen) == 1


# ---------------------------------------------------------------------------------------------- forms of batches


@pytest.fixture
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


def test_the_batch_for_rewards_has_no_more_than_the_model_takes(plugin, pairs) -> None:
    rows = transformed(plugin, pairs)
    batch = plugin.preference_collator("reward")(rows)
    reference = plugin.preference_collator()(rows)
    assert set(batch) == set(reference) - {"completion_mask"}
    assert all(torch.equal(batch[name], reference[name]) for name in batch)
    with_margin = plugin.preference_collator("reward")([{**row, "margin": 0.25} for row in rows])
    assert with_margin["margin"].tolist() == [0.25, 0.25]


def test_pairs_count_twice_for_kto(plugin, pairs) -> None:
    batch = plugin.preference_collator("kto")(transformed(plugin, pairs))
    both = plugin.preference_collator()(transformed(plugin, pairs))
    assert batch["label"].tolist() == [True, True, False, False]
    assert torch.equal(batch["input_ids"][:, : both["input_ids"].shape[1]], both["input_ids"])
    assert torch.equal(batch["pixel_values"], both["pixel_values"])
    # The first prompt with the last answer.
    tokenizer = plugin.processor.tokenizer
    trained = tokenizer.decode(batch["KL_input_ids"][0][batch["KL_completion_mask"][0].bool()])
    assert trained == "No.<|im_end|>\n"
    prompt = tokenizer.decode(batch["KL_input_ids"][0][~batch["KL_completion_mask"][0].bool()])
    assert "What is it?" in prompt
    assert "So what" not in prompt


@pytest.mark.parametrize("trainer", ["dpo", "kto"])
def test_padding(trainer: str, plugin, pairs) -> None:
    rows = transformed(plugin, pairs)
    right = plugin.preference_collator(trainer, pad_to_multiple_of=16)(rows)
    left = plugin.preference_collator(trainer, padding_side="left", pad_to_multiple_of=16)(rows)
    for batch in (right, left):
        assert batch["input_ids"].shape[1] % 16 == 0
        assert all(batch[name].shape == batch["input_ids"].shape for name in PER_TOKEN if name in batch)
    for name in (name for name in right if name.removeprefix("KL_") in PER_TOKEN):
        where = "KL_attention_mask" if name.startswith("KL_") else "attention_mask"
        assert torch.equal(right[name][right[where].bool()], left[name][left[where].bool()]), name


@pytest.mark.parametrize("trainer", ["dpo", "kto"])
def test_a_blank_item_for_batches_without_media(trainer: str, plugin) -> None:
    rows = [{"prompt": "A?", "chosen": "Yes.", "rejected": "No."}, {"prompt": "B?", "chosen": "1", "rejected": "2"}]
    mapped = transformed(plugin, rows)
    bare = plugin.preference_collator(trainer)(mapped)
    batch = plugin.preference_collator(trainer, ensure_media=True)(mapped)
    assert "pixel_values" not in bare
    assert len(batch["image_grid_thw"]) == 2  # one for each side
    image = plugin.processor.image_token_id
    for prefix in ["", "KL_"] if trainer == "kto" else [""]:
        ids = batch[f"{prefix}input_ids"]
        assert (ids == image).sum(dim=1).tolist() == [4, 0, 4, 0]  # as many as the smallest image has
        assert not batch[f"{prefix}attention_mask"][ids == image].any()
        assert torch.equal(
            ids[batch[f"{prefix}attention_mask"].bool()],
            bare[f"{prefix}input_ids"][bare[f"{prefix}attention_mask"].bool()],
        )


def test_media_options_of_a_custom_stage_still_apply(image_file) -> None:
    """A plugin with a `get_mm_inputs` of its own is asked for both sides."""
    base = type(get_mm_plugin("qwen2_vl"))

    class Own(base):
        def get_mm_inputs(self, *args):
            return {**super().get_mm_inputs(*args), "more": torch.ones(len(args[3]), 1)}

    own = Own(processor=build_processor("qwen2_vl"))
    row = {"images": [str(image_file(60, 80))], "prompt": [user("<image>?")], "chosen": "Yes.", "rejected": "No."}
    batch = own.preference_collator()(transformed(own, [row]))
    assert batch["more"].shape == (2, 1)
    plain = auto_plugin(own.processor)
    expected = plain.preference_collator()(transformed(plain, [row]))
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


# -------------------------------------------------------------------------------------------------------- errors


def test_errors(plugin, pairs) -> None:
    with pytest.raises(ValueError, match="trainer='orpo' is none of 'dpo', 'reward', 'kto'"):
        plugin.preference_collator("orpo")
    with pytest.raises(CollateError, match="no rows"):
        plugin.preference_collator()([])
    single = transformed(plugin, unpaired(pairs))
    with pytest.raises(CollateError, match="one answer each, but trainer='dpo' compares two"):
        plugin.preference_collator()(single)
    with pytest.raises(CollateError, match=r"1 of the batch: no 'label' among its columns"):
        plugin.preference_collator("kto")([single[0], {**single[1], "label": None}])
    with pytest.raises(CollateError, match="'chosen_ids' among its columns"):
        plugin.preference_collator()([{"prompt": "x"}])
    paired = transformed(plugin, pairs)
    with pytest.raises(CollateError, match="remove_unused_columns=False"):
        plugin.preference_collator()([{name: row[name] for name in row if name != "images"} for row in paired])
    with pytest.raises(CollateError, match="input_ids but"):
        plugin.preference_collator()([{**paired[0], "rejected_ids": paired[0]["rejected_ids"][:-1]}])


def test_answers_with_media_are_not_exchanged(plugin, image_file) -> None:
    row = {
        "images": [str(image_file(60, 80))],
        "prompt": [said("user", "Draw.")],
        "completion": [{"role": "assistant", "content": [*said("assistant", "Here:")["content"], {"type": "image"}]}],
        "label": True,
    }
    mapped = transformed(plugin, [row, row])
    with pytest.raises(CollateError, match="0 of the batch: its answer has media"):
        plugin.preference_collator("kto")(mapped)
    assert "pixel_values" in plugin.preference_collator("kto", with_kl=False)(mapped)
