"""Packed batches: what they consist of, how they travel, and what is refused."""

from __future__ import annotations

import pickle

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MambaConfig,
    PaliGemmaConfig,
    Qwen2_5OmniConfig,
    Trainer,
    TrainingArguments,
)

from mmdatasets import auto_plugin
from mmdatasets.collate.isolation import Isolation, isolation_of
from mmdatasets.collate.position_ids import ModelPositions
from mmdatasets.errors import CollateError
from mmdatasets.testing.checks.packing import compare, rows_one_by_one, train_on
from mmdatasets.testing.inputs import model_inputs
from mmdatasets.testing.models import build_model
from mmdatasets.testing.models.registry import text_settings
from tests.collate.packing_cases import SUBJECTS, packing_run, row_position_ids

FAMILY = "qwen2_5_vl"
FAST = ["base", "gemma3", "qwen2_5_vl", "qwen2_audio"]


def all_families():
    return [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(SUBJECTS)]


@pytest.fixture(scope="module")
def run(media_folder):
    return packing_run(FAMILY, media_folder)


@pytest.fixture(scope="module")
def config(run):
    return run.model.config


def stored_rows(run):
    """The rows as a mapped dataset."""
    features = run.plugin.features()
    kept = [{name: row.get(name) for name in features} for row in run.mapped]
    return datasets.Dataset.from_list(kept, features=features)


@pytest.fixture(scope="module")
def stored(run):
    return stored_rows(run)


def running(config, implementation):
    """The configuration of a model whose text part runs another kind of attention."""
    changed = pickle.loads(pickle.dumps(config))
    changed.get_text_config()._attn_implementation_internal = implementation
    return changed


def tensors(batch):
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, name


# ----------------------------------------------------------------------------------------------- the proof


@pytest.mark.parametrize("name", all_families())
def test_a_packed_batch_trains_as_its_rows_one_by_one(name, media_folder) -> None:
    """All that a family takes in one packed row; the conformance suite has the scenarios one by one."""
    run = packing_run(name, media_folder)
    model = run.model
    isolation = run.plugin.isolation(model.config)
    if isolation.refusal:
        with pytest.raises(CollateError, match=rf"{run.plugin.family} \(.*\) cannot be packed"):
            run.plugin.packed_collator(model.config)
        return
    alone = rows_one_by_one(run, run.mapped)
    for attention in isolation.ways:
        if attention != "flex":
            collator = run.plugin.packed_collator(model.config, attention=attention, flatten=True)
            handle = collator.guard(model)
            model.training = True  # for the guard's sake; its parts stay as they are
            try:
                compare(*alone, *train_on(model, collator(run.mapped)), attention)
            finally:
                model.training = False
                handle.remove()


TEXT_MODELS = ["gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"]


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_text_models_train_on_packed_rows_as_on_rows(kind, media_folder) -> None:
    """With windows that are shorter than the rows, where they have such; others do not read the setting."""
    run = packing_run("base", media_folder)
    settings = text_settings(run.subject.processor, head_dim=16, sliding_window=7)
    config = AutoConfig.for_model(kind, **{name: value for name, value in settings.items() if name != "model_type"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kernel = "eager" if kind == "gemma2" else "sdpa"  # which transformers does not run for it
        model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval()
    run.subject.__dict__["model"] = model
    try:
        alone = rows_one_by_one(run, run.mapped)
        for attention in ("varlen", "block_mask"):
            collator = run.plugin.packed_collator(model.config, attention=attention, flatten=True)
            compare(*alone, *train_on(model, collator(run.mapped)), attention)
    finally:
        del run.subject.__dict__["model"]


SMALL = {"gemma3": 7, "gemma3n": 7, "gemma4": 7, "llava_next": 7, "mistral3": 7, "aya_vision": 7, "llama4": 16}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one == "gemma3" else [pytest.mark.slow]) for one in SMALL]
)
def test_windows_and_chunks_count_within_each_sequence(name, media_folder) -> None:
    """The same with windows that are shorter than the sequences, of which the tiny models have none."""
    run = packing_run(name, media_folder)
    model = SUBJECTS[name].build_model(run.subject.processor)
    text = model.config.get_text_config()
    setattr(text, "attention_chunk_size" if name == "llama4" else "sliding_window", SMALL[name])
    run.subject.__dict__["model"] = model
    try:
        alone = rows_one_by_one(run, run.mapped)
        for attention in run.plugin.isolation(model.config).ways:
            if attention != "flex":
                collator = run.plugin.packed_collator(model.config, attention=attention, flatten=True)
                compare(*alone, *train_on(model, collator(run.mapped)), attention)
    finally:
        del run.subject.__dict__["model"]


def test_eager_attention_gets_the_mask_that_it_adds(media_folder) -> None:
    run = packing_run("gemma3", media_folder)
    model = build_model("gemma3", run.subject.processor)
    model.set_attn_implementation("eager")
    batch = run.plugin.packed_collator(model.config, attention="block_mask", flatten=True)(run.mapped)
    assert {mask.dtype for mask in batch["attention_mask"].values()} == {torch.float32}
    compare(*rows_one_by_one(run, run.mapped), *train_on(model, batch), "eager")


@pytest.fixture
def uncompiled():
    """FlexAttention as plain code: compiling takes minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("name", all_families())
def test_flex_attention_computes_what_dense_masks_do(name, media_folder, uncompiled) -> None:
    run = packing_run(name, media_folder)
    if "flex" not in run.plugin.isolation(run.model.config).ways:
        with pytest.raises(CollateError):
            run.plugin.packed_collator(running(run.model.config, "flex_attention"), attention="flex")
        return
    rows = sorted(run.mapped, key=lambda row: len(row["input_ids"]))[:4]
    dense = run.plugin.packed_collator(run.model.config, attention="block_mask", flatten=True)(rows)
    model = SUBJECTS[name].build_model(run.subject.processor)
    model.set_attn_implementation("flex_attention" if name == "base" else {"text_config": "flex_attention"})
    batch = run.plugin.packed_collator(model.config, attention="flex", flatten=True)(rows)
    with torch.no_grad():
        ours = model(**model_inputs(model, batch)).logits
        theirs = run.model(**model_inputs(run.model, dense)).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- the batch


@pytest.mark.parametrize("attention", ["block_mask", "flex"])
def test_masks_that_are_no_tensors_tell_how_many_tokens_there_are(attention, media_folder) -> None:
    """Trainers ask `attention_mask` for its sum, to count the tokens that they have seen."""
    run = packing_run("gemma3", media_folder)
    config = running(run.model.config, "flex_attention" if attention == "flex" else "sdpa")
    batch = run.plugin.packed_collator(config, flatten=True, attention=attention)(run.mapped)
    assert set(batch["attention_mask"]) == {"full_attention", "sliding_attention"}
    masks = [batch["attention_mask"]]
    if attention == "flex":
        masks += batch["attention_mask"].values()
    for mask in masks:
        assert mask.sum().item() == batch["input_ids"].numel()
    assert pickle.loads(pickle.dumps(batch))["attention_mask"].sum() == batch["input_ids"].numel()
    assert batch.to("meta")["attention_mask"].sum().device.type == "meta"


def test_packed_rows_give_the_batch_of_their_rows(run, config, stored) -> None:
    packer = run.plugin.packer(max_length=max(stored["length"]) * 2)
    packed, plan = packer.pack(stored), list(packer.plan(stored))
    assert max(map(len, plan)) > 2
    collate = run.plugin.packed_collator(config)
    flatten = run.plugin.packed_collator(config, flatten=True)
    for row, rows in zip(packed, plan, strict=True):
        equal(collate([row]), flatten([stored[index] for index in rows]))
    order = [index for rows in plan for index in rows]
    equal(collate(list(packed)), flatten([stored[index] for index in order]))


def test_a_plan_is_a_batch_sampler(run, config, stored) -> None:
    packer = run.plugin.packer(max_length=max(stored["length"]) * 2)
    flatten = run.plugin.packed_collator(config, flatten=True)
    collate = run.plugin.packed_collator(config)
    loader = DataLoader(stored, batch_sampler=list(packer.plan(stored)), collate_fn=flatten)
    for ours, row in zip(loader, packer.pack(stored), strict=True):
        equal(ours, collate([row]))


def test_positions_are_those_of_each_row_behind_an_axis_that_counts(run, config) -> None:
    batch = run.plugin.packed_collator(config, flatten=True)(run.mapped)
    positions, start = ModelPositions(config), 0
    assert batch["position_ids"].shape == (4, 1, batch["input_ids"].shape[1])
    for row in run.mapped:
        alone = run.plugin.collator()([row])
        own = batch["position_ids"][:, 0, start : start + len(row["input_ids"])]
        assert own[0].tolist() == list(range(len(row["input_ids"])))
        assert torch.equal(own[1:], row_position_ids(positions, row["input_ids"], alone))
        start += len(row["input_ids"])


def test_boundaries_are_told_as_flash_attention_takes_them(run, config) -> None:
    batch = run.plugin.packed_collator(config, flatten=True)(run.mapped)
    lengths = [len(row["input_ids"]) for row in run.mapped]
    assert batch["cu_seq_lens_q"].dtype == batch["cu_seq_lens_k"].dtype == torch.int32
    assert batch["cu_seq_lens_q"].diff().tolist() == batch["cu_seq_lens_k"].diff().tolist() == lengths
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths)
    assert batch["use_cache"] is False
    assert "attention_mask" not in batch


def test_no_label_is_the_first_of_its_sequence(run, config) -> None:
    rows = [{**row, "labels": list(row["input_ids"])} for row in run.mapped]
    batch = run.plugin.packed_collator(config, flatten=True)(rows)
    starts = batch["cu_seq_lens_q"][:-1].long()
    assert (batch["labels"][0, starts] == -100).all()
    assert (batch["labels"] == -100).sum() == len(rows)


def test_rows_without_labels_have_none(run, config) -> None:
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in run.mapped]
    assert "labels" not in run.plugin.packed_collator(config, flatten=True)(rows)


@pytest.mark.parametrize("attention", ["varlen", "block_mask"])
def test_padding_is_a_sequence_of_its_own(run, config, attention) -> None:
    batch = run.plugin.packed_collator(config, flatten=True, pad_to_multiple_of=64, attention=attention)(run.mapped)
    assert batch["input_ids"].shape[1] % 64 == 0
    assert batch["position_ids"].shape[-1] == batch["mm_token_type_ids"].shape[1] == batch["input_ids"].shape[1]
    compare(*rows_one_by_one(run, run.mapped), *train_on(run.model, batch), "padded")


def test_blank_media_is_a_sequence_of_its_own(run, config) -> None:
    rows = [row for row in run.mapped if not row["media_info"]]
    plain = run.plugin.packed_collator(config, flatten=True)(rows)
    ensured = run.plugin.packed_collator(config, flatten=True, ensure_media=True)(rows)
    assert "pixel_values" in ensured
    assert "pixel_values" not in plain
    assert len(ensured["cu_seq_lens_q"]) == len(plain["cu_seq_lens_q"]) + 1
    model = run.model
    expected, before = train_on(model, plain)
    found, after = train_on(model, ensured)
    assert found == pytest.approx(expected, rel=1e-6)
    assert set(after) > set(before)
    with_media = run.plugin.packed_collator(config, flatten=True, ensure_media=True)(run.mapped)
    equal(with_media, run.plugin.packed_collator(config, flatten=True)(run.mapped))


def test_media_is_cast(run, config) -> None:
    batch = run.plugin.packed_collator(config, flatten=True, dtype=torch.bfloat16)(run.mapped)
    assert batch["pixel_values"].dtype == torch.bfloat16


# -------------------------------------------------------------------------------------------------- its travels


@pytest.mark.parametrize("attention", ["varlen", "block_mask"])
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_make_the_same_batches(run, config, stored, attention, context) -> None:
    collator = run.plugin.packed_collator(config, flatten=True, attention=attention)
    loader = DataLoader(stored, 3, collate_fn=collator, num_workers=1, multiprocessing_context=context)
    here = [collator([stored[index] for index in range(start, min(start + 3, len(stored)))]) for start in (0, 3)]
    for ours, theirs in zip(loader, here, strict=False):
        equal(dict(ours), dict(theirs))


def test_flex_masks_come_from_workers_and_move_with_their_batch(media_folder) -> None:
    run = packing_run("base", media_folder)
    collator = run.plugin.packed_collator(running(run.model.config, "flex_attention"), flatten=True, attention="flex")
    here = collator(run.mapped)
    there = next(iter(DataLoader(run.mapped, len(run.mapped), collate_fn=collator, num_workers=1)))
    equal(tensors(there), tensors(here))
    assert torch.equal(there["attention_mask"].kv_indices, here["attention_mask"].kv_indices)
    assert torch.equal(there["attention_mask"].mask_mod.sequence, here["attention_mask"].mask_mod.sequence)
    moved = there.to("meta")
    assert moved["attention_mask"].kv_indices.device.type == "meta"
    assert moved["attention_mask"].mask_mod.sequence.device.type == "meta"
    assert {value.device.type for value in tensors(moved).values()} == {"meta"}


def test_the_collator_pickles(run, config) -> None:
    collator = run.plugin.packed_collator(config, flatten=True)
    equal(pickle.loads(pickle.dumps(collator))(run.mapped), collator(run.mapped))


def test_trainer_trains_on_packed_rows_as_on_rows(run, stored, tmp_path) -> None:
    """One step of Trainer, with gradient accumulation, has the loss of the rows."""
    plugin, model = run.plugin, build_model(FAMILY, run.subject.processor)
    packed = plugin.packer(max_length=max(stored["length"]) * 2).pack(stored)
    arguments = TrainingArguments(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(packed),
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        **plugin.training_args_kwargs(),
    )
    trainer = Trainer(model, arguments, plugin.packed_collator(model.config), packed)
    expected, _ = rows_one_by_one(run, run.mapped)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "attention"), [(FAMILY, "varlen"), ("gemma3", "block_mask")])
def test_trl_trains_on_packed_rows(name, attention, media_folder, tmp_path) -> None:
    trl = pytest.importorskip("trl")
    run = packing_run(name, media_folder)
    stored, plugin, model = stored_rows(run), run.plugin, build_model(name, run.subject.processor)
    packed = plugin.packer(max_length=max(stored["length"]) * 2).pack(stored)
    arguments = trl.SFTConfig(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(packed),
        logging_steps=1,
        report_to=[],
        include_num_input_tokens_seen="non_padding",
        use_cpu=True,
        bf16=False,
        **plugin.training_args_kwargs("sft"),
    )
    trainer = trl.SFTTrainer(
        model,
        arguments,
        data_collator=plugin.packed_collator(model.config, attention=attention),
        train_dataset=packed,
        processing_class=run.subject.processor,
    )
    expected, _ = rows_one_by_one(run, run.mapped)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert trainer.state.num_input_tokens_seen == sum(stored["length"])


# ------------------------------------------------------------------------------------------------- refusals


def test_rows_that_are_not_packed_are_refused(run, config) -> None:
    with pytest.raises(CollateError, match=r"row 0 of the batch: no 'sequence_lengths'.*plugin\.packer.*flatten=True"):
        run.plugin.packed_collator(config)(run.mapped)
    with pytest.raises(CollateError, match="no rows"):
        run.plugin.packed_collator(config)([])


def test_packed_rows_that_lost_their_boundaries_are_refused(run, config) -> None:
    """A trainer that drops columns leaves ids and labels; without media, nothing else tells."""
    row = next(row for row in run.mapped if not row["media_info"])
    kept = {name: row[name] for name in ("input_ids", "labels")}
    with pytest.raises(CollateError, match=r"neither 'sequence_lengths' nor 'length' .*remove_unused_columns=False"):
        run.plugin.packed_collator(config, flatten=True)([kept])


def test_packed_rows_that_were_changed_are_refused(run, config, stored) -> None:
    packed = run.plugin.packer(max_length=max(stored["length"]) * 2).pack(stored)
    collator = run.plugin.packed_collator(config)
    row = packed[0]
    with pytest.raises(CollateError, match=r"sequence_lengths add up to .* do not cut packed rows"):
        collator([{**row, "input_ids": row["input_ids"][:-1], "labels": row["labels"][:-1]}])
    with pytest.raises(CollateError, match=r"media_info does not describe its media"):
        collator([{**row, "media_info": row["media_info"][1:]}])


@pytest.mark.parametrize(
    ("name", "attention", "found"),
    [
        ("mllama", "varlen", r"mllama \(mllama\) cannot be packed: in its cross attention"),
        ("lfm2_vl", "varlen", r"lfm2_vl \(lfm2_vl\) cannot be packed: its layers of kind conv carry a state"),
        ("qwen3_5", "block_mask", "layers of kind linear_attention carry a state.*trusted=True"),
        ("gemma3", "varlen", r"gemma3 .*attention='varlen': the mask.*attention='block_mask' or attention='flex'"),
        ("paligemma", "varlen", "its prompts see themselves in both directions"),
        ("qwen2_audio", "flex", "takes a mask for that of padding; pass attention='varlen'"),
    ],
)
def test_what_cannot_be_isolated_is_refused_with_the_reason(name, attention, found) -> None:
    subject = SUBJECTS[name]
    with pytest.raises(CollateError, match=found):
        subject.plugin.packed_collator(subject.model.config, attention=attention)


def test_models_that_nobody_has_looked_at_need_the_callers_word(run) -> None:
    plugin = auto_plugin(SUBJECTS["base"].processor)
    unknown = MambaConfig()
    with pytest.raises(CollateError, match=r"mamba.*trusted=True and have collator\.verify"):
        plugin.packed_collator(unknown)
    assert isolation_of(LlamaConfig()).ways == ("varlen", "block_mask", "flex")
    known = run.model.config
    known = type(known)(**known.to_dict())
    known.model_type = "no_such_type"
    assert "nobody has proven" in isolation_of(known).refusal
    assert isolation_of(known, trusted=True).ways == ("varlen", "block_mask")


def test_configurations_decide_within_a_family() -> None:
    assert "full and sliding layers" in isolation_of(PaliGemmaConfig(text_config={"model_type": "gemma2"})).refusal
    assert not isolation_of(Qwen2_5OmniConfig()).refusal  # by its thinker


def test_attention_that_cannot_read_the_boundaries_is_refused(run, config) -> None:
    for implementation, attention, found in (
        ("flash_attention_2", "block_mask", "runs 'flash_attention_2': pass attention='varlen'"),
        ("flex_attention", "block_mask", "pass attention='flex'"),
    ):
        changed = running(config, implementation)
        with pytest.raises(CollateError, match=found):
            run.plugin.packed_collator(changed, attention=attention)
    base = SUBJECTS["base"]
    with pytest.raises(CollateError, match=r"attention='block_mask', or load .*attn_implementation='flex_attention'"):
        base.plugin.packed_collator(base.model.config, attention="flex")
    with pytest.raises(CollateError, match="Qwen2_5_VLTextModel does not run FlexAttention"):
        run.plugin.packed_collator(running(config, "flex_attention"), attention="flex")


def test_a_model_that_would_undo_the_isolation_is_told(run, config) -> None:
    collator = run.plugin.packed_collator(config, attention="block_mask")
    collator.check_model(run.model)
    with pytest.raises(CollateError, match="torchrun"):
        collator.check_model(torch.nn.DataParallel(run.model))
    with pytest.raises(CollateError, match="made for a model of type 'qwen2_5_vl', not 'llava'"):
        collator.check_model(SUBJECTS["llava"].model)
    eager = build_model(FAMILY, run.subject.processor)
    eager.set_attn_implementation("eager")
    with pytest.raises(CollateError, match="runs 'eager' attention, the collator was made for 'sdpa'"):
        collator.check_model(eager)


def test_verify_tells_whether_a_model_keeps_sequences_apart(run, config, stored, media_folder) -> None:
    packed = run.plugin.packer(max_length=max(stored["length"]) * 2).pack(stored)
    model = run.model
    assert run.plugin.packed_collator(config).verify(model, [packed[0]]) < 1e-5
    assert run.plugin.packed_collator(config, flatten=True, pad_to_multiple_of=64).verify(model, run.mapped) < 1e-5
    leaking = packing_run("lfm2_vl", media_folder)
    trusted = leaking.plugin.packed_collator(leaking.model.config, flatten=True, trusted=True)
    with pytest.raises(CollateError, match="does not keep sequences apart by attention='varlen'"):
        trusted.verify(leaking.model, leaking.mapped, tolerance=1e-5)
    assert not leaking.model.training


def test_settings_are_checked(run, config) -> None:
    with pytest.raises(ValueError, match="attention='dense' is none of 'varlen', 'block_mask', 'flex'"):
        run.plugin.packed_collator(config, attention="dense")
    with pytest.raises(ValueError, match="pad_to_multiple_of must be a positive number"):
        run.plugin.packed_collator(config, pad_to_multiple_of=0)
    with pytest.raises(ValueError, match="torch tensors"):
        run.plugin.packed_collator(config, flatten=True)(run.mapped, return_tensors="np")


def test_a_family_may_say_so_itself(run, config) -> None:
    class Refusing(type(run.plugin)):
        def isolation(self, config, *, trusted=False):
            return Isolation("it is not meant to")

    plugin = Refusing(processor=run.subject.processor, family="mine")
    with pytest.raises(CollateError, match=r"mine \(qwen2_5_vl\) cannot be packed: it is not meant to"):
        plugin.packed_collator(config)
