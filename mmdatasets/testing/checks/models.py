"""Checks that have a model eat the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import PER_TOKEN, Inputs, flat, model_inputs, require
from mmdatasets.testing.oracles import Expected
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

_ABSOLUTE, _RELATIVE = 2e-5, 1e-4
_VISION_WORDS, _AUDIO_WORDS = ("vis", "image"), ("audio",)
"""What the names of the towers' parameters have in them."""


def model_steps(run: Run, expected: Expected) -> None:
    """The tiny model runs forward and backward on the batch, and the gradient reaches the text embedding."""
    output, model = _output(run, expected), run.model
    model.zero_grad()
    output.loss.backward()
    require(torch.isfinite(output.loss), f"the loss is {output.loss.item()}")
    gradient = model.get_input_embeddings().weight.grad  # type: ignore[operator]
    require(gradient is not None and bool(gradient.abs().sum() > 0), "no gradient reaches the embedding")


def logits(run: Run, expected: Expected) -> str | None:
    """The batch gives the tiny model the same logits, row by row, as each row alone through the oracle.

    Swapped features, wrong masks and wrong routing pass every count, but not this.
    """
    return compare_logits(run, expected, run.batch, _output(run, expected).logits.detach())


def compare_logits(run: Run, expected: Expected, batch: Inputs, together: torch.Tensor) -> str | None:
    """Compares a batch's logits with those of each row alone.

    Args:
        run: The run.
        expected: Gives the rows alone.
        batch: The batch, for its attention mask.
        together: `(batch, length, vocabulary)` its logits.

    Returns:
        What was left out, if anything.
    """
    left_out = False
    ids = [torch.tensor(row["input_ids"]) for row in run.mapped]
    for index in range(len(run.rows)):
        alone = _alone(run, expected, index)
        real = torch.as_tensor(batch["attention_mask"])[index].bool()
        ours = together[index][real]
        if run.subject.dependent is not None:
            dependent = run.subject.dependent(run.subject.processor, ids, index)
            left_out |= bool(dependent.any())
            alone, ours = alone[~dependent], ours[~dependent]
        if not len(alone):
            continue
        difference, scale = (ours - alone).abs().max().item(), alone.abs().max().item()
        off = f"row {index}: logits off by {difference:.2g} of {scale:.2g}"
        require(difference <= _ABSOLUTE + _RELATIVE * scale, off)
    return run.subject.dependent_reason if left_out else None


def _alone(run: Run, expected: Expected, index: int) -> torch.Tensor:
    """`(length, vocabulary)` logits of a row by itself, computed once."""
    if index not in run.alone:
        theirs = expected.rows[index]
        if theirs is None:
            raise NotApplicable(f"the oracle refuses row {index}")
        if missing := (set(flat(run.batch)) & set(PER_TOKEN)) - set(theirs) - {"labels"}:
            raise NotApplicable(f"the oracle says nothing of {', '.join(sorted(missing))} in row {index}")
        model = run.model
        with torch.no_grad():
            inputs = model_inputs(model, run.oracle.for_model(theirs), labels=False)
            run.alone[index] = model(**inputs).logits[0]
    return run.alone[index]


def ensured_media(run: Run, expected: Expected) -> None:
    """`ensure_media=True` has a batch without media run every tower of the model, and changes nothing else."""
    if run.scenario.modalities:
        raise NotApplicable("the batch has media")
    plugin = run.plugin
    if not plugin.modalities:
        raise NotApplicable("no media")
    model = run.model
    ensured = plugin.collator(ensure_media=True, padding_side=run.oracle.padding_side)(run.mapped)
    added = plugin.engine.is_media_token(ensured["input_ids"].numpy())
    require(added.any(), "no media was added")
    require(not ensured["attention_mask"].numpy()[added].any(), "the added media is attended to")
    require((ensured["labels"].numpy()[added] == IGNORE_INDEX).all(), "the added media is trained")
    real = [int(mask.sum()) for mask in ensured["attention_mask"]]
    require(real == [len(row["input_ids"]) for row in run.mapped], "rows were cut")  # type: ignore[arg-type]
    plain = _output(run, expected).loss.item()
    model.zero_grad()
    output = model(**model_inputs(model, ensured))
    output.loss.backward()
    change = abs(output.loss.item() - plain)
    require(change <= _ABSOLUTE + _RELATIVE * plain, f"the loss changes by {change:.2g}")
    for tower in plugin.towers:
        words = _AUDIO_WORDS if "audio" in tower else _VISION_WORDS
        reached = [p.grad is not None for name, p in model.named_parameters() if any(word in name for word in words)]
        missing = set(tower) & set(plugin.modalities) and not any(reached)
        require(not missing, f"the tower of {', '.join(tower)} takes no part in the backward pass")


def _output(run: Run, expected: Expected) -> ModelOutput:
    try:
        return run.output
    except (RuntimeError, ValueError) as error:
        raise model_refuses(run, expected, error) from error


def model_refuses(run: Run, expected: Expected, error: Exception) -> Exception:
    """What it means that the model failed on our batch: nothing, where it fails on the processor's own likewise."""
    theirs = expected.batch if expected.batch is not None else expected.rows[0]
    if theirs is None:
        return error
    model = run.model
    try:
        with torch.no_grad():
            model(**model_inputs(model, run.oracle.for_model(theirs), labels=False))
    except (RuntimeError, ValueError) as own:
        return NotApplicable(f"the model fails on the processor's own output: {str(own)[:120]}")
    return error
