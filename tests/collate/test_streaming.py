"""Streaming datasets: mapped, interleaved, shuffled, resumed, collated and trained on."""

from __future__ import annotations

import itertools
import json

import datasets
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor

NUM_ROWS = 24
SIZES = [(60, 60), (90, 60), None, (120, 60)]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"), options=MediaOptions())


@pytest.fixture(scope="module")
def files(tmp_path_factory, image_file):
    """Four JSONL files, the shards of a dataset; every fourth row has no image."""
    folder = tmp_path_factory.mktemp("streams")
    paths = []
    for shard in range(4):
        lines = []
        for number in range(shard * 6, shard * 6 + 6):
            size = SIZES[number % 4]
            question = f"<image> {number}?" if size else f"nothing {number}?"
            lines.append(
                {
                    "messages": [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": f"It is {number}."},
                    ],
                    "images": [str(image_file(*size))] if size else [],
                    "number": number,
                }
            )
        paths.append(folder / f"{shard}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [str(path) for path in paths]


def load(files, **more):
    return datasets.load_dataset("json", data_files=files, split="train", **more)


def stream(plugin, files):
    source = load(files, streaming=True)
    return source.map(
        plugin.transform, batched=True, batch_size=4, remove_columns=["messages"], features=features(plugin, files)
    )


def features(plugin, files):
    return plugin.features(load(files, streaming=True)._resolve_features().features)


@pytest.fixture
def mapped(plugin, files):
    rows = load(files)
    return rows.map(plugin.transform, batched=True, features=plugin.features(rows.features))


def same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def numbers(rows):
    return [row["number"] for row in rows]


def test_rows_are_those_of_the_mapped_dataset(plugin, files, mapped) -> None:
    rows = list(stream(plugin, files))
    assert rows == list(mapped)
    same(plugin.collator()(rows[:5]), plugin.collator()([mapped[index] for index in range(5)]))


def test_without_features_and_with_the_chat_left_in(plugin, files, mapped) -> None:
    """What a stream's map does by itself: every column of the source stays."""
    rows = list(load(files, streaming=True).map(plugin.transform, batched=True, batch_size=4))
    assert "messages" in rows[0]
    assert [row["input_ids"] for row in rows] == [row["input_ids"] for row in mapped]
    same(plugin.collator()(rows[:5]), plugin.collator()([mapped[index] for index in range(5)]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader(workers, plugin, files, mapped) -> None:
    loader = DataLoader(
        stream(plugin, files),
        batch_size=3,
        num_workers=workers,
        collate_fn=plugin.collator(),
        timeout=120 * bool(workers),
    )
    seen = []
    for batch in loader:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            seen.append(ids[mask.bool()].tolist())
    assert sorted(seen) == sorted(mapped["input_ids"][:])


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 23, 24])
def test_resumption(taken, plugin, files) -> None:
    whole = stream(plugin, files)
    first = stream(plugin, files)
    iterator = iter(first)
    head = list(itertools.islice(iterator, taken))
    state = first.state_dict()
    again = stream(plugin, files)
    again.load_state_dict(state)
    assert head + list(again) == list(whole)


def test_interleaved_and_shuffled(plugin, files) -> None:
    def make():
        one, other = stream(plugin, files[:2]), stream(plugin, files[2:])
        mixed = datasets.interleave_datasets(
            [one, other], probabilities=[0.7, 0.3], seed=3, stopping_strategy="all_exhausted"
        )
        return mixed.shuffle(seed=5, buffer_size=6)

    whole = list(make())
    assert set(numbers(whole)) == set(range(NUM_ROWS))
    assert numbers(whole) != sorted(numbers(whole))
    batch = plugin.collator()(whole[:6])
    assert int(plugin.engine.is_media_token(batch["input_ids"].numpy()).sum()) == sum(
        item["num_tokens"] for row in whole[:6] for item in row["media_info"]
    )
    other_epoch = make()
    other_epoch.set_epoch(1)
    assert numbers(other_epoch) != numbers(whole)


@pytest.mark.parametrize("draws", [{}, {"probabilities": [0.7, 0.3], "seed": 3, "stopping_strategy": "all_exhausted"}])
def test_interleaved_and_resumed(draws, plugin, files) -> None:
    def make():
        return datasets.interleave_datasets([stream(plugin, files[:2]), stream(plugin, files[2:])], **draws)

    whole = list(make())
    first = make()
    head = list(itertools.islice(iter(first), 7))
    again = make()
    again.load_state_dict(first.state_dict())
    assert head + list(again) == whole


def test_shuffled_and_resumed(plugin, files) -> None:
    """What was in the buffer is skipped; nothing comes twice."""

    def make():
        return stream(plugin, files).shuffle(seed=5, buffer_size=6)

    first = make()
    head = numbers(itertools.islice(iter(first), 7))
    again = make()
    again.load_state_dict(first.state_dict())
    rest = numbers(again)
    assert len(rest) >= NUM_ROWS - len(head) - 6
    assert len({*head, *rest}) == len(head) + len(rest)


def test_nodes_share_the_shards(plugin, files) -> None:
    parts = [numbers(split_dataset_by_node(stream(plugin, files), rank, 2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(NUM_ROWS))


@pytest.mark.parametrize("workers", [0, 2])
def test_trainer(workers, plugin, files, tmp_path) -> None:
    dataset = stream(plugin, files).shuffle(seed=0, buffer_size=8)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,  # more than one pass
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        dataloader_num_workers=workers,
        **plugin.training_args_kwargs(),
    )
    trainer = Trainer(
        model=build_model("qwen2_vl", plugin.processor),
        args=arguments,
        train_dataset=dataset,
        data_collator=plugin.collator(),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 8
    assert all(0 < loss < 20 for loss in losses)


def test_trainer_resumes(files, tmp_path) -> None:
    """From the middle of a shuffled pass, with the rows and losses that the whole run had.

    With Qwen3-VL: of Qwen2-VL, transformers 5.23 saves weights under older names that its Trainer does not load.
    """
    plugin = auto_plugin(build_processor("qwen3_vl"), options=MediaOptions())

    def run(folder, resume=None, **more):
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=5,
            per_device_train_batch_size=4,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1,
            **more,
            **plugin.training_args_kwargs(),
        )
        seen = []
        collator = plugin.collator()

        def collate(rows):
            seen.append(numbers(rows))
            return collator(rows)

        trainer = Trainer(
            model=build_model("qwen3_vl", plugin.processor),
            args=arguments,
            train_dataset=stream(plugin, files).shuffle(seed=0, buffer_size=8),
            data_collator=collate,
        )
        trainer.train(resume_from_checkpoint=resume)
        return seen, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    seen, losses = run(tmp_path / "whole", save_steps=2)
    again, resumed = run(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-2"), save_strategy="no")
    assert again[-3:] == seen[-3:]
    assert resumed == pytest.approx(losses, abs=1e-4)
    assert len(losses) == 5
