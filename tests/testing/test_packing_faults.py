"""Proof that the check of packing notices wrong positions, masks, boundaries, labels and media."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mmdatasets.collate.isolation import Isolation
from mmdatasets.collate.packed import PackedCollator
from mmdatasets.plugins.registry import auto_plugin
from mmdatasets.testing.checks.packing import packing
from mmdatasets.testing.conformance import SCENARIOS, Run, Subject
from mmdatasets.testing.oracles import Expected, ProcessorOracle
from mmdatasets.testing.subjects import named_subjects

SUBJECTS = {subject.name: subject for subject in named_subjects()}
IMAGES = "rows of different counts"
VIDEOS = "rows of videos"
AUDIOS = "rows of audio"


def check(family: str, scenario: str, folder: Path, spoil=None, isolation: Isolation | None = None) -> None:
    """Runs the check on a family whose packed batches are spoilt."""
    known = SUBJECTS[family]

    def build(processor):
        plugin = auto_plugin(processor)

        @dataclass(eq=False)
        class Spoilt(type(plugin)):
            def isolation(self, config, *, trusted=False):
                return isolation or super().isolation(config, trusted=trusted)

            def packed_collator(self, config, **settings):
                made = super().packed_collator(config, **settings)
                return made if spoil is None else Spoiling(made, spoil)

        return Spoilt(processor=processor, family=plugin.family)

    subject: Subject = replace(known, build_plugin=build)
    chosen = next(one for one in SCENARIOS if one.name == scenario)
    run = Run(subject, chosen, folder, ProcessorOracle())
    packing(run, Expected(run))


@dataclass
class Spoiling:
    collator: PackedCollator
    spoil: object

    def __call__(self, rows):
        batch = self.collator(rows)
        self.spoil(batch)
        return batch


def lose_the_text_axis(batch):
    batch["position_ids"] = batch["position_ids"][1:]


def cache(batch):
    batch["use_cache"] = True


def count_on(batch):
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]


def mask_padding(batch):
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])


def swap_axes(batch):
    batch["position_ids"] = batch["position_ids"][[0, 1, 3, 2]]


def leave_out_positions(batch):
    del batch["position_ids"]


def see_all_before(batch):
    if isinstance(batch.get("attention_mask"), torch.Tensor):
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"]).tril()


def see_no_block(batch):
    batch["attention_mask"] = {kind: mask.tril() for kind, mask in batch["attention_mask"].items()}


def see_no_prompt(batch):
    batch["attention_mask"] = batch["attention_mask"].tril()


def train_the_first_token(batch):
    starts = (batch["position_ids"][0] == 0).nonzero().flatten()[1:]
    batch["labels"][0, starts] = batch["input_ids"][0, starts]


def last_asked(batch, end=None):
    """The last token whose prediction is trained, of those before `end`."""
    return int((batch["labels"][0, :end] != -100).nonzero()[-1]) - 1


def join_two_sequences(batch):
    starts = (batch["position_ids"].flatten(0, -2)[0] == 0).nonzero().flatten().tolist()
    first, second = [*starts[1:], batch["position_ids"].shape[-1]][:2]
    batch["position_ids"][..., first:second] += first


def begin_early(batch):
    start = int((batch["position_ids"].flatten(0, -2)[0] == 0).nonzero()[1])
    early = batch["position_ids"][..., last_asked(batch, start) : start]
    early -= early[..., :1].clone()


def see_one_token_more(batch):
    masks = batch.get("attention_mask")
    for mask in masks.values() if isinstance(masks, dict) else [] if masks is None else [masks]:
        mask[..., last_asked(batch), 0] = True


def swap_images(batch):
    batch["pixel_values"] = batch["pixel_values"].flip(0)


def swap_types(batch):
    batch["mm_token_type_ids"] = torch.zeros_like(batch["mm_token_type_ids"])


@pytest.mark.parametrize(
    ("family", "scenario", "spoil", "found"),
    [
        ("qwen2_5_vl", IMAGES, lose_the_text_axis, "cosine|loss"),
        ("qwen2_5_vl", IMAGES, cache, "varlen.*(cosine|loss)"),
        ("qwen2_5_vl", VIDEOS, swap_axes, "cosine|loss"),
        ("qwen2_5_vl", VIDEOS, leave_out_positions, "cosine|loss"),
        ("qwen2_5_vl", IMAGES, see_all_before, "block_mask.*(cosine|loss)"),
        ("qwen2_5_vl", IMAGES, swap_images, "cosine|loss"),
        ("llava", IMAGES, count_on, "cosine|loss"),
        ("llava", IMAGES, mask_padding, "varlen.*(cosine|loss)"),
        ("llava", IMAGES, train_the_first_token, "loss"),
        ("gemma3", IMAGES, see_no_block, "block_mask.*(cosine|loss)"),
        ("paligemma", IMAGES, see_no_prompt, "block_mask.*(cosine|loss)"),
        ("qwen3_vl", IMAGES, join_two_sequences, "varlen.*loss"),
        ("qwen2_audio", AUDIOS, join_two_sequences, "varlen.*loss"),
        ("qwen2_audio", AUDIOS, begin_early, "varlen.*loss"),
        ("llama4", IMAGES, begin_early, "varlen.*loss"),
        ("qwen3_vl", IMAGES, see_one_token_more, "block_mask.*(cosine|gradient)"),
        ("gemma4", IMAGES, see_one_token_more, "block_mask.*(cosine|gradient)"),
        ("llama4", IMAGES, see_one_token_more, "block_mask.*(cosine|gradient)"),
    ],
)
def test_a_spoilt_batch_is_noticed(family, scenario, spoil, found, media_folder) -> None:
    with pytest.raises(AssertionError, match=found):
        check(family, scenario, media_folder, spoil)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3", "paligemma"])
def test_what_is_not_spoilt_passes(family, media_folder) -> None:
    check(family, IMAGES, media_folder)


@pytest.mark.parametrize(
    ("family", "scenario"),
    [("gemma3", IMAGES), ("paligemma", IMAGES), ("lfm2_vl", IMAGES), ("gemma4", VIDEOS)],
)
def test_a_family_that_claims_what_it_cannot_is_noticed(family, scenario, media_folder) -> None:
    """Each restriction of the table has its reason: without it, the check fails."""
    with pytest.raises(AssertionError, match=r"cosine|loss"):
        check(family, scenario, media_folder, isolation=Isolation())


def test_qwen3_5_needs_kernels_that_stop_at_boundaries(media_folder) -> None:
    """Without them, transformers refuses by itself; nothing can be proven on a CPU."""
    with pytest.raises(ValueError, match="flash-linear-attention"):
        check("qwen3_5", IMAGES, media_folder, isolation=Isolation())


def test_mllama_cannot_be_packed_as_others(media_folder) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        check("mllama", IMAGES, media_folder, isolation=Isolation())
