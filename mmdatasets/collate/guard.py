"""Watches what reaches a model that trains on packed batches: a trainer may undo what keeps sequences apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmdatasets.collate.isolation import check_implementation, implementation_of
from mmdatasets.errors import CollateError

if TYPE_CHECKING:
    from mmdatasets.collate.isolation import PackedAttention


@dataclass(frozen=True)
class PackedGuard:
    """A forward pre-hook that refuses batches in which packed sequences would see one another.

    It looks at names, shapes and types alone, so that nothing waits for a device, and in training mode only: a model
    that generates has a cache, and may.

    Attributes:
        attention: What tells the model the boundaries.
        num_axes: The first size of `position_ids`: 1, or one more than there are multimodal rotary axes.
    """

    attention: PackedAttention
    num_axes: int

    def __call__(self, model: torch.nn.Module, args: tuple[object, ...], inputs: Mapping[str, object]) -> None:
        """Checks the inputs of a forward pass, `input_ids` by name or first.

        Raises:
            CollateError: If they are not as `PackedCollator` made them. Says what is different.
        """
        ids = inputs.get("input_ids", args[0] if args else None)
        if not model.training or not isinstance(ids, torch.Tensor):
            return
        rows, length = ids.shape
        if rows != 1:
            raise CollateError(
                f"the model was given {rows} rows, but a packed batch is one: train it on batches of the packed "
                "collator alone, and have none joined (accelerate's dispatch_batches=False, which "
                "plugin.training_args_kwargs() sets)"
            )
        if inputs.get("use_cache") is not False:
            raise _undone(
                f"use_cache={inputs.get('use_cache')!r}", "with a cache transformers sees no boundaries: pass False"
            )
        self._check_positions(inputs.get("position_ids"), length)
        self._check_mask(inputs.get("attention_mask"), model, length)

    def _check_positions(self, positions: object, length: int) -> None:
        expected = (1, length) if self.num_axes == 1 else (self.num_axes, 1, length)
        found = tuple(positions.shape) if isinstance(positions, torch.Tensor) else None
        if found != expected:
            what = "no position_ids" if found is None else f"position_ids of shape {found}"
            raise _undone(what, f"those of the batch, {expected}, tell the boundaries: pass them on as they are")

    def _check_mask(self, mask: object, model: torch.nn.Module, length: int) -> None:
        config = getattr(model, "config", None)
        if config is not None:
            check_implementation(config, self.attention)
        if self.attention == "varlen":
            if mask is not None:
                raise _undone(
                    "an attention_mask", "with attention='varlen' the batch has none, and must not be given one"
                )
            return
        for one in mask.values() if isinstance(mask, Mapping) else [mask]:
            self._check_one_mask(one, None if config is None else implementation_of(config), length)

    def _check_one_mask(self, mask: object, implementation: str | None, length: int) -> None:
        expected = (1, 1, length, length)
        if self.attention == "flex":
            if type(mask).__name__ != "BlockMask":
                raise _undone("no BlockMask as its attention_mask", "pass that of the batch on as it is")
            return
        found = tuple(mask.shape) if isinstance(mask, torch.Tensor) else None
        if found != expected:
            what = "no attention_mask" if found is None else f"an attention_mask of shape {found}"
            raise _undone(what, f"that of the batch, {expected}, tells the boundaries: pass it on as it is")
        if implementation == "eager" and isinstance(mask, torch.Tensor) and mask.dtype == torch.bool:
            raise _undone(
                "a boolean attention_mask, to which eager attention adds its scores",
                "make the collator once the model runs the attention that it is trained with",
            )


def _undone(what: str, remedy: str) -> CollateError:
    return CollateError(f"the model was given {what}, so that packed sequences would see one another: {remedy}")
