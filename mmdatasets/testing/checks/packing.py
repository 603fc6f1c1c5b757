"""A check that packing changes nothing: a packed batch trains a model as its rows one by one do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mmdatasets.errors import CollateError
from mmdatasets.testing.checks.models import model_refuses
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import model_inputs, require
from mmdatasets.testing.oracles import Expected
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from mmdatasets.collate.isolation import PackedAttention

LOSS, COSINE, SIZE = 1e-5, 0.99999, 1e-4
"""How far the losses may differ, relatively, and how alike each parameter's gradients must be, and their norms."""

ONE_ROW = "one row of media that a scenario of several rows has"

_VANISHING = 1e-7
"""A gradient that is this small beside the largest is rounding: softmax cancels what keys have in common, say."""

Gradients = Mapping[str, torch.Tensor]


def packing(run: Run, expected: Expected) -> None:
    """Packed, the rows give the loss and gradients that they give the model one by one, weighted by their tokens.

    The rows one by one go through the plugin's ordinary collator, which other checks compare with the processor.
    """
    if len(run.rows) == 1 and not run.scenario.modalities > {"audio"}:
        raise NotApplicable(ONE_ROW)
    model = run.model
    config: PretrainedConfig | None = getattr(model, "config", None)
    if config is None:
        raise NotApplicable("the model is no model of transformers")
    isolation = run.plugin.isolation(config)
    if isolation.refusal:
        _require_refused(run, config)
        raise NotApplicable(f"cannot be packed: {isolation.refusal}")
    # A row of one scenario is packed with itself: whatever one sees of the other would count.
    rows = run.mapped if len(run.mapped) > 1 else run.mapped * 2
    try:
        loss, gradients = rows_one_by_one(run, rows)
    except (RuntimeError, ValueError) as error:
        raise model_refuses(run, expected, error) from error
    for attention in isolation.ways:
        if attention == "flex":  # it has no backward pass on CPUs
            continue
        packed = run.plugin.packed_collator(config, attention=attention, flatten=True)(rows)
        try:
            found = train_on(model, packed)
        except (RuntimeError, ValueError) as error:
            raise model_refuses(run, expected, error) from error
        compare(loss, gradients, *found, f"attention={attention!r}")


def rows_one_by_one(run: Run, rows: Sequence[Mapping[str, object]]) -> tuple[float, Gradients]:
    """The loss of rows, each a batch of its own, weighted by the tokens that it trains, and the gradients of that."""
    model, collator = run.model, run.plugin.collator(padding_side="right")
    # The first token is none that a model predicts.
    counts = [sum(label != IGNORE_INDEX for label in list(row["labels"])[1:]) for row in rows]  # type: ignore[call-overload]
    model.zero_grad(set_to_none=True)
    total = 0.0
    for row, count in zip(rows, counts, strict=True):
        loss = model(**model_inputs(model, collator([row]))).loss * (count / sum(counts))
        loss.backward()
        total += loss.item()
    return total, _gradients(model)


def train_on(model: torch.nn.Module, batch: Mapping[str, object]) -> tuple[float, Gradients]:
    """The loss of a batch, and its gradients."""
    model.zero_grad(set_to_none=True)
    loss = model(**model_inputs(model, batch)).loss
    loss.backward()
    return loss.item(), _gradients(model)


def compare(loss: float, gradients: Gradients, other_loss: float, others: Gradients, what: str) -> None:
    """Compares a packed batch's loss and gradients with those of its rows.

    Args:
        loss: The loss of the rows.
        gradients: Their gradients, by parameter.
        other_loss: The batch's loss.
        others: Its gradients.
        what: What the batch is, for the message.

    Raises:
        AssertionError: If they differ. Names the parameter that does most.
    """
    off = abs(other_loss - loss) / abs(loss)
    require(off <= LOSS, f"{what}: the loss is {other_loss:.7f}, of the rows {loss:.7f}, which is off by {off:.1e}")
    require(set(gradients) == set(others), f"{what}: gradients of {set(gradients) ^ set(others)} in one of both alone")
    largest = max(gradient.norm().item() for gradient in gradients.values())
    alike = {
        name: torch.cosine_similarity(mine.flatten().double(), others[name].flatten().double(), dim=0).item()
        for name, mine in gradients.items()
        if max(mine.norm().item(), others[name].norm().item()) > _VANISHING * largest
    }
    require(alike, f"{what}: no gradient to compare")
    worst = min(alike, key=lambda name: alike[name])
    require(alike[worst] > COSINE, f"{what}: the gradients of {worst} have a cosine of {alike[worst]:.6f}")
    ratios = {name: (others[name].norm() / gradients[name].norm()).item() for name in alike}
    far = max(ratios, key=lambda name: abs(ratios[name] - 1))
    require(abs(ratios[far] - 1) <= SIZE, f"{what}: the gradient of {far} is {ratios[far]:.6f} times as large")


def _gradients(model: torch.nn.Module) -> Gradients:
    return {name: one.grad.double().clone() for name, one in model.named_parameters() if one.grad is not None}


def _require_refused(run: Run, config: PretrainedConfig) -> None:
    attentions: tuple[PackedAttention, ...] = ("varlen", "block_mask", "flex")
    for attention in attentions:
        try:
            run.plugin.packed_collator(config, attention=attention)
        except CollateError as error:
            require(run.plugin.family in str(error), f"the refusal does not name the family: {error}")
        else:
            require(False, f"attention={attention!r} is not refused")
