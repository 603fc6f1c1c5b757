from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import CollateError, MediaDecodeError, MediaProcessorError
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture
def mapped(plugin, image_file):
    dataset = datasets.Dataset.from_dict(
        {
            "messages": [chat("<image>?"), chat("<image>, <image>"), chat("nothing"), chat("<image>")],
            "images": [
                [str(image_file(60, 60))],
                [str(image_file(90, 60)), str(image_file(60, 60))],
                [],
                [str(image_file(60, 60))],
            ],
        }
    )
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))


def same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_text_only_batch_has_no_media_tensors(plugin, mapped) -> None:
    batch = plugin.collator()([mapped[2]])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "mm_token_type_ids"}


def test_padding(plugin, mapped) -> None:
    rows = [mapped[0], mapped[2]]
    right = plugin.collator(padding_side="right", pad_to_multiple_of=32)(rows)
    left = plugin.collator(padding_side="left", pad_to_multiple_of=32)(rows)
    length = len(mapped[2]["input_ids"])
    assert right["input_ids"].shape[1] % 32 == 0
    tokenizer = plugin.processor.tokenizer
    for name, pad in (
        ("input_ids", tokenizer.pad_token_id),
        ("labels", -100),
        ("attention_mask", 0),
        ("mm_token_type_ids", 0),
    ):
        assert right[name][1, length:].eq(pad).all()
        assert left[name][1, :-length].eq(pad).all()
        assert torch.equal(right[name][1, :length], left[name][1, -length:])
        assert right[name].dtype == torch.int64


def test_rows_without_labels_make_a_batch_without(plugin, mapped) -> None:
    row = {name: value for name, value in mapped[0].items() if name != "labels"}
    assert "labels" not in plugin.collator()([row])


def test_rows_that_were_not_mapped_are_refused(plugin, mapped) -> None:
    with pytest.raises(CollateError, match=r"row 1 of the batch: no 'input_ids' among its columns \(messages\): map"):
        plugin.collator()([mapped[0], {"messages": chat("x")}])
    with pytest.raises(CollateError, match="no rows"):
        plugin.collator()([])


def test_dropped_media_columns_name_the_setting(plugin, mapped) -> None:
    kept = mapped.remove_columns(["images"])
    with pytest.raises(CollateError, match=r"row 0 of the batch.*remove_unused_columns=False"):
        plugin.collator()(list(kept))


def test_truncated_rows_are_refused(plugin, mapped) -> None:
    row = dict(mapped[1])
    row["input_ids"] = row["input_ids"][:20]
    with pytest.raises(CollateError, match=r"20 input_ids but \d+ labels.*max_length=None"):
        plugin.collator()([row])
    row["labels"] = row["labels"][:20]
    with pytest.raises(CollateError, match=r"its 2 image\(s\) make 10 features.*max_length=None"):
        plugin.collator()([row])


def test_a_changed_file_is_noticed(plugin, image_file, tmp_path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(image_file(60, 60).read_bytes())
    rows = plugin.transform({"messages": [chat("<image>")], "images": [[path]]})
    path.write_bytes(image_file(300, 300).read_bytes())
    with pytest.raises(MediaDecodeError, match=r"decodes to 300x300 pixels, but 60x60 pixels were planned"):
        plugin.collator()([{name: column[0] for name, column in rows.items()}])


def test_rows_of_formatted_datasets(plugin, mapped) -> None:
    for form in ("numpy", "torch"):
        formatted = mapped.select([2, 2]).with_format(form)
        same(plugin.collator()([formatted[0], formatted[1]]), plugin.collator()([mapped[2], mapped[2]]))


@pytest.mark.parametrize("format", ["torch", "numpy"])
def test_formats_change_no_video_and_no_budget(image_file, format) -> None:
    """Numbers of the plan are tensors there, and lists of frames arrays."""
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(image_max_pixels=2_000))
    frames = [{"path": str(image_file(60, 60)), "bytes": None}] * 4
    source = datasets.Dataset.from_list(
        [{"messages": chat("<image><video>"), "images": frames[:1], "videos": [frames]}] * 2
    )
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    same(plugin.collator()(list(mapped.with_format(format))), plugin.collator()(list(mapped)))


def test_exchanged_images_are_noticed(plugin, mapped) -> None:
    row = dict(mapped[1])
    row["images"] = row["images"][::-1]
    with pytest.raises(
        MediaDecodeError, match=r"row 0 of the batch, column 'images', index 0 .*60x60 pixels, but 90x60"
    ):
        plugin.collator()([row])


def test_attributes_on_the_processor_do_not_reach_the_collator(image_file) -> None:
    processor = build_processor("qwen2_vl")
    processor.image_max_pixels = 10_000
    plugin = auto_plugin(processor)
    rows = plugin.transform({"messages": [chat("<image>")], "images": [[image_file(300, 300)]]})
    batch = plugin.collator()([{name: column[0] for name, column in rows.items()}])
    assert batch["image_grid_thw"].prod() == 4 * rows["media_info"][0][0]["num_tokens"]


def test_a_refused_image_is_named(plugin, image_file, tmp_path) -> None:
    path = tmp_path / "grown.jpg"
    path.write_bytes(image_file(60, 60).read_bytes())
    images = [[image_file(60, 60)], [image_file(60, 60), path]]
    rows = plugin.transform({"messages": [chat("<image>"), chat("<image><image>")], "images": images})
    path.write_bytes(image_file(300, 1).read_bytes())
    rows = [{name: column[index] for name, column in rows.items() if name != "media_info"} for index in range(2)]
    with pytest.raises(MediaProcessorError, match=r"row 1 of the batch, column 'images', index 1 \(.*grown.jpg\)"):
        plugin.collator()(rows)


def test_labels_in_some_rows_only_are_refused(plugin, mapped) -> None:
    row = {name: value for name, value in mapped[0].items() if name != "labels"}
    with pytest.raises(CollateError, match="row 1 of the batch: no 'labels'"):
        plugin.collator()([mapped[0], row])


def test_padding_arguments_are_checked(plugin) -> None:
    with pytest.raises(ValueError, match="padding_side"):
        plugin.collator(padding_side="middle")
    with pytest.raises(ValueError, match="pad_to_multiple_of"):
        plugin.collator(pad_to_multiple_of=0)


def test_a_pickled_collator_gives_the_same_batch(plugin, mapped) -> None:
    copy = pickle.loads(pickle.dumps(plugin.collator()))
    same(copy(list(mapped)), plugin.collator()(list(mapped)))
    assert pickle.dumps(copy) == pickle.dumps(plugin.collator())


def collate_in_worker(collator, rows):
    return {name: tensor.clone() for name, tensor in collator(rows).items()}


def test_a_spawned_process_gives_the_same_batch(plugin, mapped) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        theirs = pool.submit(collate_in_worker, plugin.collator(), list(mapped)).result(timeout=120)
    same(plugin.collator()(list(mapped)), theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_dataloader_workers(workers: int, plugin, mapped) -> None:
    plugin.collator()([mapped[0]])  # OpenMP runs in the parent before the fork
    loader = DataLoader(
        mapped, batch_size=2, num_workers=workers, collate_fn=plugin.collator(), timeout=60 * bool(workers)
    )
    batches = list(loader)
    same(batches[0], plugin.collator()([mapped[0], mapped[1]]))
    same(batches[1], plugin.collator()([mapped[2], mapped[3]]))


def train(plugin, mapped, tmp_path, **settings):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_steps=1, **settings,
    )  # fmt: skip
    model = build_model("qwen2_vl", plugin.processor)
    trainer = Trainer(model=model, args=arguments, train_dataset=mapped, data_collator=plugin.collator())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer_steps(plugin, mapped, tmp_path) -> None:
    losses = train(plugin, mapped, tmp_path, remove_unused_columns=False)
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_trainer_that_drops_the_media_is_told_so(plugin, mapped, tmp_path) -> None:
    with pytest.raises(CollateError, match="remove_unused_columns=False"):
        train(plugin, mapped, tmp_path)
