from __future__ import annotations

import itertools
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets import MediaBudgetBatchSampler, auto_plugin
from mmdatasets.errors import CollateError
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from mmdatasets.transforms.row_costs import media_tokens_of, row_lengths_of

ROWS = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 60)), min_size=1, max_size=60)
LIMITS = {"max_tokens": 128, "max_patches": 64}


def sampler(rows, **settings):
    lengths, media = zip(*rows, strict=True)
    return MediaBudgetBatchSampler(lengths, media, **{**LIMITS, **settings})


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return list(zip(rng.integers(1, 100, count).tolist(), rng.integers(0, 60, count).tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------- properties


@given(ROWS, st.integers(0, 3), st.booleans(), st.sampled_from([1, 8]), st.sampled_from([None, 3]))
def test_budgets_hold_and_no_row_is_lost_or_doubled(rows, epoch, shuffle, multiple, max_rows) -> None:
    made = sampler(rows, shuffle=shuffle, pad_to_multiple_of=multiple, max_rows=max_rows)
    made.set_epoch(epoch)
    batches = list(made)
    assert len(batches) == len(made)
    assert sorted(itertools.chain(*batches)) == list(range(len(rows)))
    for batch in batches:
        longest = max(-(-rows[row][0] // multiple) * multiple for row in batch)
        assert longest * len(batch) <= 128
        assert sum(rows[row][1] for row in batch) <= 64
        assert len(batch) <= (max_rows or len(rows))


@given(ROWS, st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_ranks_share_the_rows(rows, num_replicas, epoch, shuffle) -> None:
    ranks = [sampler(rows, num_replicas=num_replicas, rank=rank, shuffle=shuffle) for rank in range(num_replicas)]
    for one in ranks:
        one.set_epoch(epoch)
    batches = [list(one) for one in ranks]
    assert {len(own) for own in batches} == {len(one) for one in ranks} == {len(ranks[0])}
    counts = Counter(row for own in batches for batch in own for row in batch)
    assert set(counts) == set(range(len(rows)))
    doubled = sum(counts.values()) - len(rows)
    assert doubled <= num_replicas - 1
    if doubled:
        assert all(len(batch) == 1 for own in batches for batch in own)
    every = sampler(rows, num_replicas=num_replicas, shuffle=shuffle)
    every.set_epoch(epoch)
    assert list(every) == [batch for step in zip(*batches, strict=True) for batch in step]


@given(ROWS, st.integers(1, 3), st.integers(0, 2), st.data())
def test_resumption_gives_the_rest(rows, num_replicas, epoch, data) -> None:
    rank = data.draw(st.sampled_from([None, *range(num_replicas)]))
    whole = sampler(rows, num_replicas=num_replicas, rank=rank)
    whole.set_epoch(epoch)
    expected = list(whole)
    steps = data.draw(st.integers(0, len(expected) // (num_replicas if rank is None else 1)))
    handed_out = steps * (num_replicas if rank is None else 1)
    first = sampler(rows, num_replicas=num_replicas, rank=rank)
    first.set_epoch(epoch)
    assert list(itertools.islice(iter(first), handed_out)) == expected[:handed_out]
    state = first.state_dict()
    assert (state["epoch"], state["steps"]) == (epoch, steps)
    assert state == whole.state_dict(steps=steps)
    second = sampler(rows, num_replicas=num_replicas, rank=rank)
    second.load_state_dict(state)
    second.set_epoch(epoch)  # as trainers do
    assert list(second) == expected[handed_out:]
    assert list(second) == expected  # the next pass is a whole one


@given(ROWS, st.integers(0, 1000))
def test_the_order_depends_on_seed_and_epoch_alone(rows, seed) -> None:
    one, other = sampler(rows, seed=seed), sampler(rows, seed=seed)
    list(other)
    for made in (one, other):
        made.set_epoch(2)
    assert list(one) == list(other) == list(one)


# --------------------------------------------------------------------------------------------------------- examples


def test_epochs_and_seeds_differ_and_have_as_many_batches() -> None:
    rows = random_rows(5000)
    orders = []
    for seed, epoch in itertools.product((0, 1), range(4)):
        made = sampler(rows, seed=seed)
        made.set_epoch(epoch)
        orders.append(list(made))
        assert len(orders[-1]) == len(made)
    assert len({len(order) for order in orders[:4]}) == 1
    assert len({str(order) for order in orders}) == len(orders)


def test_little_is_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 2000, 4000)
    made = MediaBudgetBatchSampler(lengths, max_tokens=16_384)
    batches = list(made)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert lengths.sum() / padded > 0.97
    assert len(batches) < 1.1 * lengths.sum() / 16_384
    # Long batches are not all at one end.
    longest = [int(lengths[batch].max()) for batch in batches]
    assert abs(np.corrcoef(longest, np.arange(len(batches)))[0, 1]) < 0.2


def test_the_batches_of_a_step_are_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 2000, 4000)
    ranks = [list(MediaBudgetBatchSampler(lengths, max_tokens=16_384, num_replicas=4, rank=rank)) for rank in range(4)]
    spreads = [
        max(lengths[batch].max() for batch in step) - min(lengths[batch].max() for batch in step)
        for step in zip(*ranks, strict=True)
    ]
    assert np.median(spreads) < 100


def test_without_shuffling_rows_keep_their_order() -> None:
    batches = list(sampler(random_rows(100), shuffle=False))
    assert list(itertools.chain(*batches)) == list(range(100))


def test_a_row_over_the_budget_is_named() -> None:
    with pytest.raises(CollateError, match=r"row 1: it has 300 tokens, more than max_tokens=128, as 2 row\(s\) do"):
        MediaBudgetBatchSampler([10, 300, 20, 400], max_tokens=128)
    with pytest.raises(
        CollateError, match=r"row 2: it has 70 media tokens, more than max_patches=64.*raise max_patches to 70"
    ):
        MediaBudgetBatchSampler([80, 80, 80], [0, 10, 70], max_patches=64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a budget is needed"),
        ({"max_tokens": 0}, "max_tokens must be positive"),
        ({"max_tokens": 8, "num_replicas": 2, "rank": 2}, "rank must be one of 0 to 1, got 2"),
        ({"max_patches": 8}, "max_patches needs the media tokens of each row"),
        ({"max_tokens": 8, "media": [1]}, "2 lengths but 1 numbers of media tokens"),
        ({"max_tokens": 8, "pad_to_multiple_of": 0}, "pad_to_multiple_of must be positive"),
    ],
)
def test_arguments_are_checked(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        MediaBudgetBatchSampler([1, 2], **settings)
    with pytest.raises(ValueError, match="no rows"):
        MediaBudgetBatchSampler([], max_tokens=8)


def test_the_state_of_other_batches_is_refused() -> None:
    rows = random_rows(50)
    state = sampler(rows).state_dict()
    for other in (sampler(rows, seed=1), sampler(rows[:-1]), sampler(rows, num_replicas=2), sampler(rows, max_rows=2)):
        with pytest.raises(ValueError, match="of other rows, budgets, seed or num_replicas"):
            other.load_state_dict(state)


# ------------------------------------------------------------------------------------- datasets, loaders and trainers


def test_costs_of_a_mapped_dataset(qwen_rows) -> None:
    for rows in (qwen_rows, qwen_rows.select([5, 1, 0]), qwen_rows.shuffle(seed=0)):
        assert row_lengths_of(rows).tolist() == [len(row["input_ids"]) for row in rows]
        expected = [sum(item["num_tokens"] for item in row["media_info"]) for row in rows]
        assert media_tokens_of(rows).tolist() == expected
    assert media_tokens_of(qwen_rows.select([2, 5])).tolist() == [0, 0]


def test_a_dataset_that_was_not_mapped() -> None:
    with pytest.raises(CollateError, match=r"no 'length' among the dataset's columns \(messages\): map it"):
        MediaBudgetBatchSampler.of(datasets.Dataset.from_dict({"messages": ["x"]}), max_tokens=8)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader(workers, qwen_plugin, qwen_rows) -> None:
    made = MediaBudgetBatchSampler.of(qwen_rows, max_tokens=96, max_patches=12)
    loader = DataLoader(
        qwen_rows,
        batch_sampler=made,
        collate_fn=qwen_plugin.collator(),
        num_workers=workers,
        timeout=120 * bool(workers),
    )
    batches = list(loader)
    assert len(batches) == len(loader) == len(made)
    for batch, rows in zip(batches, made.batches(0), strict=True):
        expected = qwen_plugin.collator()([qwen_rows[row] for row in rows])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
        assert batch["input_ids"].numel() <= 96


@pytest.mark.parametrize("even", [True, False])
def test_shards_of_accelerate_are_the_ranks_own(even) -> None:
    rows = random_rows(300)
    for rank in range(3):
        every, own = sampler(rows, num_replicas=3), sampler(rows, num_replicas=3, rank=rank)
        shard = BatchSamplerShard(every, 3, rank, even_batches=even)
        assert list(shard) == list(own)
        assert len(shard) == len(own)


def test_accelerate_prepares_it() -> None:
    rows = random_rows(100)
    every = sampler(rows)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
    loader = accelerator.prepare(DataLoader(range(100), batch_sampler=every, collate_fn=list))
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert list(loader) == sampler(rows).batches(epoch)
    loader.set_epoch(1)
    assert list(skip_first_batches(loader, 5)) == sampler(rows).batches(1)[5:]


def test_accelerate_goes_on_with_a_state() -> None:
    """Its loaders count epochs from 0 in a new process, which must not silently start the training over."""
    rows = random_rows(100)

    def prepared():
        every = sampler(rows)
        accelerator = Accelerator(cpu=True)
        return every, accelerator.prepare(DataLoader(range(100), batch_sampler=every, collate_fn=list))

    every, loader = prepared()
    list(loader)
    batches = iter(loader)
    trained = [next(batches) for _ in range(3)]
    state = every.state_dict(steps=len(trained))
    assert state["epoch"] == 1
    assert every.state_dict()["steps"] == 4  # one is made in advance

    again, loader = prepared()
    again.load_state_dict(state)
    with pytest.raises(ValueError, match=r"set_epoch\(0\) after a state of epoch 1 was loaded.*call set_epoch\(1\)"):
        next(iter(loader))
    loader.set_epoch(state["epoch"])
    assert trained + list(loader) == sampler(rows).batches(1)
    assert list(loader) == sampler(rows).batches(2)
    again.set_epoch(0)
    assert list(again) == sampler(rows).batches(0)


BUDGET = {"max_tokens": 300, "max_patches": 160}


class BudgetTrainer(Trainer):
    def get_train_dataloader(self):
        batches = MediaBudgetBatchSampler.of(
            self.train_dataset, **BUDGET, seed=self.args.seed, num_replicas=self.args.world_size
        )
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class Watched:
    def __init__(self, collator):
        self.collator = collator
        self.batches = []

    def __call__(self, rows):
        self.batches.append([row["number"] for row in rows])
        return self.collator(rows)


def arguments(plugin, folder, **more):
    return TrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, seed=7,
        **plugin.training_args_kwargs(), **more,
    )  # fmt: skip


def test_trainer(qwen_dataset, tmp_path) -> None:
    """Every epoch is the sampler's, and a run that is resumed goes on with what the whole run had.

    With Qwen3-VL: of Qwen2-VL, transformers 5.23 saves weights under older names that its Trainer does not load.
    """
    plugin = auto_plugin(build_processor("qwen3_vl"))
    rows = qwen_dataset.map(plugin.transform, batched=True, features=plugin.features(qwen_dataset.features))
    rows = rows.add_column("number", list(range(len(rows))))
    planned = MediaBudgetBatchSampler.of(rows, **BUDGET, seed=7)
    expected = [batch for epoch in range(2) for batch in planned.batches(epoch)]
    assert planned.batches(0) != planned.batches(1)

    def run(folder, resume=None, **more):
        watched = Watched(plugin.collator())
        trainer = BudgetTrainer(
            model=build_model("qwen3_vl", plugin.processor),
            args=arguments(plugin, folder, num_train_epochs=2, **more),
            train_dataset=rows,
            data_collator=watched,
        )
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.max_steps == len(expected)
        return watched.batches, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    batches, losses = run(tmp_path / "whole", save_strategy="steps", save_steps=len(planned) + 1)
    assert batches == expected
    assert len(losses) == len(expected)
    done = len(planned) + 1
    again, resumed = run(tmp_path / "again", tmp_path / "whole" / f"checkpoint-{done}", save_strategy="no")
    assert again == expected[done:]
    assert resumed[-len(again) :] == pytest.approx(losses[done:], abs=1e-4)


def test_group_by_length_uses_the_length_column(qwen_plugin, qwen_rows, tmp_path) -> None:
    rows = datasets.concatenate_datasets([qwen_rows] * 10)
    rows = rows.add_column("number", list(range(len(rows))))
    lengths = np.array(rows["length"][:])

    def padding(strategy):
        watched = Watched(qwen_plugin.collator())
        trainer = Trainer(
            model=build_model("qwen2_vl", qwen_plugin.processor),
            args=arguments(
                qwen_plugin,
                tmp_path,
                num_train_epochs=1,
                per_device_train_batch_size=4,
                train_sampling_strategy=strategy,
                save_strategy="no",
            ),
            train_dataset=rows,
            data_collator=watched,
        )
        trainer.train()
        assert sorted(itertools.chain(*watched.batches)) == list(range(len(rows)))
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in watched.batches)

    assert padding("group_by_length") < 0.5 * padding("random")
