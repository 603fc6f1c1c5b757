"""Rows whose media cannot be decoded: what the collators put in their place, and what a model makes of it."""

from __future__ import annotations

import io
import math
import pickle

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets import auto_plugin
from mmdatasets.collate.collator import MultimodalCollator
from mmdatasets.errors import (
    CollateError,
    FeatureMismatchError,
    MediaDecodeError,
    MediaProcessorError,
    TooManyBadRowsError,
)
from mmdatasets.testing.conformance import SCENARIOS, Run
from mmdatasets.testing.inputs import model_inputs
from mmdatasets.testing.media import make_image
from mmdatasets.testing.models import build_model
from mmdatasets.testing.oracles import ProcessorOracle
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.scenarios import Scenario
from mmdatasets.testing.subjects import named_subjects
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms.row_log import read_row_log, row_digest
from mmdatasets.transforms.tokenise import IGNORE_INDEX
from tests.collate.conftest import chat


def png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


DAMAGED = [{"bytes": b"no image", "path": "damaged.jpg"}]


COLUMNS = {"ids": "input_ids", "labels": "labels"}
# What a file may become after the map: one that the processor refuses, and one that makes other features.
REFUSED = [{"bytes": png(make_image(600, 2, seed=0)), "path": "strip.png"}]
OTHER = [{"bytes": png(make_image(300, 200, seed=0)), "path": "other.png"}]


@pytest.fixture(scope="module")
def skipping():
    return auto_plugin(build_processor("qwen2_vl"), on_error="skip")


@pytest.fixture
def rows(qwen_rows):
    return [dict(row) for row in qwen_rows]


def damaged(rows, *places):
    return [{**row, "images": DAMAGED} if place in places else row for place, row in enumerate(rows)]


def assert_same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def loss_of(model, batch) -> torch.Tensor:
    return model(**{name: value for name, value in batch.items() if value is not None}).loss


@pytest.mark.parametrize(("bad", "origins"), [([1], [0, 2, 2, 3]), ([3], [0, 1, 2, 0]), ([0, 2, 3], [1, 1, 1, 1])])
def test_the_next_good_row_stands_in_and_trains_nothing(bad, origins, skipping, qwen_plugin, rows) -> None:
    rows = rows[:4]
    batch = skipping.collator()(damaged(rows, *bad))
    expected = qwen_plugin.collator()([rows[origin] for origin in origins])
    expected["labels"][bad] = IGNORE_INDEX
    assert_same(batch, expected)


def test_raise_is_the_default_and_an_argument_comes_before_the_plugin(skipping, qwen_plugin, rows) -> None:
    bad = damaged(rows[:2], 1)
    for collator in (qwen_plugin.collator(), skipping.collator(on_error="raise")):
        with pytest.raises(MediaDecodeError, match="row 1 of the batch, column 'images', index 0"):
            collator(bad)
    assert_same(qwen_plugin.collator(on_error="skip")(bad), skipping.collator()(bad))
    with pytest.raises(ValueError, match="on_error='quarantine' needs row_log"):
        qwen_plugin.collator(on_error="quarantine")
    with pytest.raises(CollateError, match="no 'input_ids'"):  # no row's fault
        skipping.collator()([{"messages": []}])


def test_batches_without_a_good_row_keep_size_towers_and_a_finite_loss(skipping, rows) -> None:
    bad = damaged([rows[0], rows[1], rows[3]], 0, 1, 2)
    batch = skipping.collator()(bad)
    assert len(batch["input_ids"]) == 3
    assert len(batch["image_grid_thw"]) == 1  # so that the tower runs, as on ranks with images
    assert batch["attention_mask"].sum(dim=1).tolist() == [2, 2, 2]
    trained = batch["labels"] != IGNORE_INDEX
    assert trained.sum() == 1
    assert batch["labels"][trained].item() == rows[0]["input_ids"][1]
    model = build_model("qwen2_vl", skipping.processor)
    loss = loss_of(model, batch)
    loss.backward()
    assert math.isfinite(loss.item())
    assert any(p.grad is not None for name, p in model.named_parameters() if "visual" in name)


@pytest.mark.parametrize("family", ["gemma3", "mllama", "pixtral", "qwen2_audio", "qwen2_5_omni"])
def test_models_take_what_stands_in(family, media_folder) -> None:
    subject = next(one for one in named_subjects() if one.name == family)
    kind = "images" if "image" in subject.modalities else "audios"
    scenario = "rows of different counts" if kind == "images" else "rows of audio"
    rows = next(one for one in SCENARIOS if one.name == scenario).rows
    run = Run(subject, Scenario("bad rows", tuple(rows)), media_folder, ProcessorOracle())
    mapped = [dict(row) for row in run.mapped]
    bad = [{**row, kind: DAMAGED * len(row[kind])} for row in mapped]
    collator = run.plugin.collator(on_error="skip", padding_side=run.oracle.padding_side)
    for given in ([bad[0], *mapped[1:]], bad):
        batch = collator(given)
        assert len(batch["input_ids"]) == len(mapped)
        loss = run.model(**model_inputs(run.model, batch)).loss
        loss.backward()
        assert math.isfinite(loss.item())


def test_a_batch_that_lost_its_only_image_gets_a_blank_one(skipping, qwen_plugin, rows) -> None:
    with_image, without = rows[0], rows[2]
    batch = skipping.collator()(damaged([with_image, without], 0))
    plain = qwen_plugin.collator(ensure_media=True)([without, without])
    plain["labels"][0] = IGNORE_INDEX
    assert_same(batch, plain)
    assert "pixel_values" not in skipping.collator()([without, without])  # nothing was lost here


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_trainer_goes_on_with_finite_losses(batch_size, skipping, rows, tmp_path) -> None:
    model = build_model("qwen2_vl", skipping.processor)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=batch_size,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        use_cpu=True,
        **skipping.training_args_kwargs(),
    )
    bad = datasets.Dataset.from_list(damaged(rows[:2], 0, 1), features=skipping.features())
    trainer = Trainer(model, arguments, train_dataset=bad, data_collator=skipping.collator())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_quarantine_keeps_each_row_once(rows, tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=str(tmp_path))
    collator = plugin.collator()
    bad = damaged(rows[:4], 1, 3)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):  # two epochs
        collator([bad[place] for place in order])
    assert collator.bad_rows.reasons == {"media_decode": 4}
    log = read_row_log(tmp_path).to_pylist()
    assert {row["digest"] for row in log} == {row_digest(bad[1]), row_digest(bad[3])}
    assert len(log) == 2
    first = log[0]
    assert (first["outcome"], first["reason"], first["column"]) == ("replaced", "media_decode", "images")
    assert (first["index"], first["source"]) == (0, "damaged.jpg")


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_replace_count_and_log(context, rows, tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=str(tmp_path))
    bad = damaged(rows[:6], 1, 4)
    expected = [plugin.collator()(bad[start : start + 3]) for start in (0, 3)]
    for path in tmp_path.iterdir():
        path.unlink()
    loader = DataLoader(
        bad, batch_size=3, num_workers=2, collate_fn=plugin.collator(), multiprocessing_context=context, timeout=120
    )
    for batch, wanted in zip(loader, expected, strict=True):
        assert_same(batch, wanted)
    assert sorted(read_row_log(tmp_path)["digest"].to_pylist()) == sorted(row_digest(bad[place]) for place in (1, 4))


def test_too_many_stop_the_training(rows) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="skip", max_bad_rows=2)
    collator: MultimodalCollator = pickle.loads(pickle.dumps(plugin.collator()))
    collator(damaged(rows[:4], 0, 1))
    with pytest.raises(TooManyBadRowsError, match=r"3 of the first 5 rows.*\n  3 media_decode, for example row 0 of"):
        collator(damaged(rows[:4], 0))


def test_packed_sequences_are_replaced_one_by_one(skipping, qwen_plugin, rows) -> None:
    model = build_model("qwen2_vl", skipping.processor)
    collator = skipping.packed_collator(model.config, flatten=True)
    mapped = datasets.Dataset.from_list(rows[:4], features=skipping.features())
    packed = [dict(row) for row in skipping.packer(max_length=512).pack(mapped)]
    assert len(packed) == 1
    lengths = list(packed[0]["sequence_lengths"])
    starts = [record["start"] for record in packed[0]["media_info"]]
    broken = {**packed[0], "images": [*DAMAGED, *packed[0]["images"][1:]]}
    batch = collator([broken])
    whole = collator(packed)
    # The sequence with the first image is two tokens now, and the others are what they were.
    place = next(n for n in range(len(lengths)) if sum(lengths[: n + 1]) > starts[0])
    begin, end = sum(lengths[:place]), sum(lengths[: place + 1])
    ids, labels = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
    assert batch["input_ids"][0].tolist() == [*ids[:begin], *ids[begin : begin + 2], *ids[end:]]
    assert batch["labels"][0].tolist() == [*labels[:begin], *[IGNORE_INDEX] * 2, *labels[end:]]
    assert torch.equal(batch["image_grid_thw"], whole["image_grid_thw"][1:])
    assert math.isfinite(loss_of(model, batch).item())
    nothing = collator([{**packed[0], "images": DAMAGED * len(packed[0]["images"]), "labels": packed[0]["labels"]}])
    assert len(nothing["image_grid_thw"]) == 1 or "pixel_values" in nothing
    assert math.isfinite(loss_of(model, nothing).item())


@pytest.mark.parametrize(
    ("images", "reason", "error"),
    [
        (REFUSED, "media_processor", MediaProcessorError),
        (OTHER, "feature_mismatch", FeatureMismatchError),
    ],
)
def test_what_the_processor_makes_trouble_of_is_replaced_too(
    images, reason, error, qwen_plugin, rows, tmp_path
) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=str(tmp_path))
    # Rows that do not say what was planned: else it is noticed at once that it is not that.
    other = {"images": images, "media_info": None}
    bad = [{**row, **other} if place in (1, 3) else row for place, row in enumerate(rows[:4])]
    with pytest.raises(error, match="row 1 of the batch"):
        qwen_plugin.collator()(bad)
    collator = plugin.collator()
    expected = qwen_plugin.collator()([rows[origin] for origin in (0, 2, 2, 0)])
    expected["labels"][[1, 3]] = IGNORE_INDEX
    assert_same(collator(bad), expected)
    assert collator.bad_rows.reasons == {reason: 2}
    log = read_row_log(tmp_path).to_pylist()
    assert {(row["outcome"], row["reason"], row["digest"]) for row in log} == {
        ("replaced", reason, row_digest(bad[place])) for place in (1, 3)
    }
    # Of packed rows the sequence, of both sides of a comparison the row.
    config = build_model("qwen2_vl", plugin.processor).config
    packed = plugin.packed_collator(config, flatten=True)(bad)
    assert packed["cu_seq_lens_q"].diff()[[1, 3]].tolist() == [2, 2]
    sides = [
        {f"{side}_{name}": row[source] for side in ("chosen", "rejected") for name, source in COLUMNS.items()}
        | {name: row[name] for name in ("images", "media_info")}
        for row in bad
    ]
    compared = plugin.preference_collator("dpo")(sides)
    assert torch.equal(compared["image_grid_thw"], expected["image_grid_thw"].repeat(2, 1))


def test_a_batch_that_is_wrong_as_a_whole_is_an_error(skipping, rows) -> None:
    for names in (["images"], ["images", "media_info"]):
        missing = [{name: value for name, value in row.items() if name not in names} for row in rows[:2]]
        with pytest.raises(CollateError, match=r"no 'images' among its columns|came without its media columns"):
            skipping.collator()(missing)
    dataset = datasets.Dataset.from_list(rows[:2], features=skipping.features())
    with pytest.raises(
        CollateError, match=r"row 0 of the batch: no 'images' among its columns \(.*pictures.*media_info"
    ):
        skipping.collator()(list(dataset.rename_column("images", "pictures")))
    for format in ("pandas", "arrow"):
        with pytest.raises(CollateError, match=r"as a mapping of columns, got .*use dataset.with_format\(None\)"):
            skipping.collator()([dataset.with_format(format)[0]])
    with pytest.raises(CollateError, match="expected a list of rows, got dict"):
        skipping.collator()(dataset[:2])


def test_decoded_media_is_as_good_as_references(qwen_plugin, qwen_rows, tmp_path) -> None:
    pytest.importorskip("torchcodec")
    write_video(tmp_path / "clip.mp4", VideoSpec(num_frames=8))
    source = {"messages": [chat("<video><image>?")], "videos": [[str(tmp_path / "clip.mp4")]]}
    source["images"] = [[{"bytes": OTHER[0]["bytes"], "path": None}]]
    mapped = datasets.Dataset.from_dict(source).map(qwen_plugin.transform, batched=True)
    decoding = mapped.cast_column("videos", datasets.List(datasets.Video())).cast_column(
        "images", datasets.List(datasets.Image())
    )
    assert not isinstance(decoding[0]["videos"][0], dict)
    assert_same(qwen_plugin.collator()([decoding[0]]), qwen_plugin.collator()([mapped[0]]))


@pytest.mark.parametrize("trainer", ["dpo", "reward", "kto"])
def test_preferences(trainer, skipping, qwen_plugin, image_file) -> None:
    source = {
        "prompt": [chat(f"<image>{n}?")[:1] for n in range(3)],
        "chosen": [[{"role": "assistant", "content": f"Yes, {n}."}] for n in range(3)],
        "rejected": [[{"role": "assistant", "content": f"No, not {n}."}] for n in range(3)],
        "images": [[str(image_file(60, 60 + 30 * n))] for n in range(3)],
    }
    mapped = datasets.Dataset.from_dict(source).map(skipping.preference_transform, batched=True)
    rows = [dict(row) for row in mapped]
    batch = skipping.preference_collator(trainer)(damaged(rows, 1))
    next_row = rows[2]
    if trainer == "kto":
        expected = qwen_plugin.preference_collator(trainer)([rows[0], next_row, next_row])
        for name in ("pixel_values", "image_grid_thw"):
            assert torch.equal(batch[name], expected[name])
        ids = [made["input_ids"][made["attention_mask"].bool()] for made in (batch, expected)]
        assert torch.equal(*ids)
        assert batch["completion_mask"].sum(dim=1).gt(0).tolist() == [True, False, True] * 2
        return
    same = {**next_row, "rejected_ids": next_row["chosen_ids"], "rejected_labels": next_row["chosen_labels"]}
    assert_same(batch, qwen_plugin.preference_collator(trainer)([rows[0], same, next_row]))
    none = skipping.preference_collator(trainer)(damaged(rows, 0, 1, 2))
    assert torch.equal(none["input_ids"][:3, :2], none["input_ids"][3:, :2])
    assert len(none["image_grid_thw"]) == 2
