"""Inputs of models: as models are called with them, and compared with an oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch

Nested: TypeAlias = "torch.Tensor | Sequence[Nested] | int"
"""A tensor, or lists of tensors or numbers, which some families give in place of one."""

Inputs: TypeAlias = Mapping[str, Nested]

PER_TOKEN = ("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Inputs with one value for each token, which rows without media have too."""


def require(condition: object, message: str) -> None:
    """Fails a check.

    Raises:
        AssertionError: With the message, unless the condition holds.
    """
    if not condition:
        raise AssertionError(message)


def flat(batch: Mapping[str, object]) -> dict[str, Nested]:
    """A batch's inputs by name, those in `data` included, where some families put them."""
    inner = batch.get("data")
    found = {name: value for name, value in batch.items() if name != "data"}
    return {**(inner if isinstance(inner, Mapping) else {}), **found}


def require_same(name: str, ours: object, theirs: object) -> None:
    """Checks that an input equals the oracle's in structure, types, shapes and values.

    A list of numbers may be a tensor of them: some processors leave lists, and collators make tensors of those.

    Raises:
        AssertionError: If it does not.
    """
    if isinstance(theirs, list) and isinstance(ours, torch.Tensor):
        require(ours.tolist() == theirs, f"{name} is {ours.tolist()}, the oracle's {theirs}")
        return
    if isinstance(theirs, list | tuple):
        require(isinstance(ours, list | tuple), f"{name} is {type(ours).__name__}, the oracle's a list")
        require(len(ours) == len(theirs), f"{name} has {len(ours)} entries, the oracle's {len(theirs)}")  # type: ignore[arg-type]
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):  # type: ignore[call-overload]
            require_same(f"{name}[{index}]", mine, other)
        return
    if not isinstance(theirs, torch.Tensor):
        require(ours == theirs, f"{name} is {ours!r}, the oracle's {theirs!r}")
        return
    if not isinstance(ours, torch.Tensor):
        raise AssertionError(f"{name} is {type(ours).__name__}, the oracle's a tensor")
    require(ours.shape == theirs.shape, f"{name} is {tuple(ours.shape)}, the oracle's {tuple(theirs.shape)}")
    require(ours.dtype == theirs.dtype, f"{name} is {ours.dtype}, the oracle's {theirs.dtype}")
    require(torch.equal(ours, theirs), f"{name} differs from the oracle's")


def require_same_inputs(ours: Inputs, theirs: Inputs, left_out: Sequence[str] = ()) -> None:
    """Checks that inputs equal the oracle's, name by name.

    Args:
        ours: The inputs.
        theirs: The oracle's.
        left_out: Names that only one of both may have.

    Raises:
        AssertionError: If a name is missing, or surplus, or an input differs.
    """
    names = set(theirs) - set(left_out)
    found = set(ours) - set(left_out)
    require(found == names, f"inputs {', '.join(sorted(found))}, the oracle's {', '.join(sorted(names))}")
    for name in sorted(names):
        require_same(name, ours[name], theirs[name])


def model_inputs(model: torch.nn.Module, batch: Mapping[str, object], *, labels: bool = True) -> dict[str, object]:
    """A batch as keyword arguments of a model, in the model's precision (Llama 4's processor gives bfloat16)."""
    precision = next(model.parameters()).dtype

    def cast(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to(precision) if value.is_floating_point() else value
        if isinstance(value, Mapping):
            return {name: cast(item) for name, item in value.items()}
        return [cast(item) for item in value] if isinstance(value, list) else value

    return {name: cast(value) for name, value in batch.items() if labels or name != "labels"}
