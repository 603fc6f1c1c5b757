"""The guard: what a trainer may do to a packed batch on its way to the model, and that each is refused."""

from __future__ import annotations

import copy
import pickle

import datasets
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets.collate.packed import PackedCollator
from mmdatasets.errors import CollateError
from mmdatasets.testing.inputs import model_inputs
from tests.collate.packing_cases import packing_run

MROPE, PLAIN = "qwen2_5_vl", "llava"


@pytest.fixture(scope="module")
def runs(media_folder):
    return {name: packing_run(name, media_folder) for name in (MROPE, PLAIN)}


def guarded(run, attention="varlen", implementation="sdpa"):
    """A model of its own in training mode, its collator, and the batch that it is fed."""
    model = run.subject.build_model(run.subject.processor)
    model.set_attn_implementation(implementation)
    collator: PackedCollator = run.plugin.packed_collator(model.config, attention=attention, flatten=True)
    collator.guard(model)
    return model.train(), collator, model_inputs(model, collator(run.mapped))


def changed(batch, **values):
    return {**batch, **values}


def dropped(batch, name):
    return {key: value for key, value in batch.items() if key != name}


@pytest.mark.parametrize("name", [MROPE, PLAIN])
@pytest.mark.parametrize(
    ("attention", "implementation"), [("varlen", "sdpa"), ("block_mask", "sdpa"), ("block_mask", "eager")]
)
def test_what_the_collator_makes_passes(runs, name, attention, implementation) -> None:
    model, _, batch = guarded(runs[name], attention, implementation)
    model(**batch).loss.backward()


SPOILT = {
    "a padding mask": (
        "varlen",
        lambda batch: changed(batch, attention_mask=torch.ones_like(batch["input_ids"])),
        "an attention_mask, so that packed sequences would see one another",
    ),
    "the cache": ("varlen", lambda batch: changed(batch, use_cache=True), "use_cache=True"),
    "the configuration's cache": ("varlen", lambda batch: dropped(batch, "use_cache"), "use_cache=None"),
    "no positions": ("varlen", lambda batch: dropped(batch, "position_ids"), "no position_ids"),
    "positions of two": (
        "varlen",
        lambda batch: changed(batch, position_ids=batch["position_ids"].flatten()[None]),
        r"position_ids of shape \(1, \d+\), .*those of the batch",
    ),
    "no mask": ("block_mask", lambda batch: dropped(batch, "attention_mask"), "no attention_mask"),
    "a mask of padding": (
        "block_mask",
        lambda batch: changed(batch, attention_mask=torch.ones_like(batch["input_ids"])),
        r"an attention_mask of shape \(1, \d+\)",
    ),
    "two rows": (
        "varlen",
        lambda batch: changed(batch, input_ids=batch["input_ids"].expand(2, -1)),
        "2 rows, but a packed batch is one.*dispatch_batches",
    ),
}


@pytest.mark.parametrize("undone", SPOILT)
def test_what_undoes_the_isolation_is_refused(runs, undone) -> None:
    attention, spoil, found = SPOILT[undone]
    model, _, batch = guarded(runs[MROPE], attention)
    with pytest.raises(CollateError, match=found):
        model(**spoil(batch))


def test_the_text_axis_of_positions_must_stay(runs) -> None:
    model, _, batch = guarded(runs[MROPE])
    with pytest.raises(CollateError, match=r"position_ids of shape \(3, 1, \d+\)"):
        model(**changed(batch, position_ids=batch["position_ids"][1:]))


def test_attention_that_was_changed_later_is_refused(runs) -> None:
    model, _, batch = guarded(runs[PLAIN], "block_mask")
    model.set_attn_implementation("eager")
    with pytest.raises(CollateError, match="a boolean attention_mask"):
        model(**batch)
    model.config.get_text_config()._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(CollateError, match="runs 'flash_attention_2': pass attention='varlen'"):
        model(**batch)


def test_batches_cut_by_accelerate_are_refused(runs) -> None:
    """Without `dispatch_batches=False`, a streaming dataset's batches are cut along their first dimension."""
    run = runs[MROPE]
    model, collator, _ = guarded(run)
    rows = [row for row in run.mapped if not row["media_info"]] * 2
    stored = datasets.Dataset.from_list(
        [{name: row[name] for name in ("input_ids", "labels", "length")} for row in rows]
    )
    loader = DataLoader(stored.to_iterable_dataset(), 2, collate_fn=collator)
    batch = next(
        iter(prepare_data_loader(loader, device=torch.device("cpu"), put_on_device=True, dispatch_batches=True))
    )
    with pytest.raises(CollateError, match=r"position_ids of shape \(1, 1, \d+\), .*\(4, 1, \d+\)"):
        model(**batch)


def test_only_training_is_watched_and_only_until_it_ends(runs) -> None:
    run = runs[MROPE]
    model = run.subject.build_model(run.subject.processor)
    collator = run.plugin.packed_collator(model.config, flatten=True)
    handle = collator.guard(model)
    unpacked = model_inputs(model, run.plugin.collator()(run.mapped))
    model.eval()
    model(**unpacked)
    model.train()
    with pytest.raises(CollateError, match=rf"{len(run.mapped)} rows"):
        model(**unpacked)
    handle.remove()
    model(**unpacked)


def test_a_guarded_model_copies_and_pickles(runs) -> None:
    model, _, batch = guarded(runs[PLAIN])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(CollateError, match="use_cache"):
            twin(**dropped(batch, "use_cache"))


def test_a_model_that_cannot_be_packed_for_is_not_guarded(runs) -> None:
    collator = runs[MROPE].plugin.packed_collator(runs[MROPE].model.config)
    with pytest.raises(CollateError, match="made for a model of type"):
        collator.guard(runs[PLAIN].model)


@pytest.mark.parametrize("undo", [False, True])
def test_trainer_trains_a_guarded_model_and_one_that_undoes_is_told(runs, tmp_path, undo) -> None:
    class Masking(Trainer):
        def _prepare_inputs(self, inputs):
            made = super()._prepare_inputs(inputs)
            return changed(made, attention_mask=torch.ones_like(made["input_ids"])) if undo else made

    run = runs[MROPE]
    model, collator, _ = guarded(run)
    arguments = TrainingArguments(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        use_cache=True,  # of the model's configuration: the batch says otherwise
        gradient_checkpointing=True,
        **run.plugin.training_args_kwargs(),
    )
    trainer = Masking(model, arguments, collator, run.mapped)
    if not undo:
        trainer.train()
        return
    with pytest.raises(CollateError, match="an attention_mask"):
        trainer.train()
