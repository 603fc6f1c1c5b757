"""A batch: what the model takes, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import torch
from transformers import BatchFeature

from mmdatasets.collate.masks import LayerMasks, map_block_mask


class Batch(BatchFeature):  # type: ignore[misc]  # transformers is untyped here
    """The batch that a collator makes.

    A `transformers.BatchFeature` of which everything goes to a device and into pinned memory: the tensors in nested
    lists and mappings, as some families have them, too.
    """

    def to(self, *args: object, **kwargs: object) -> Self:
        """Moves every tensor to a device, and casts the floating ones to a dtype.

        Args:
            args: A device, a dtype or both, as `torch.Tensor.to` takes them.
            kwargs: The same by name, and `non_blocking`.

        Returns:
            The batch itself.
        """
        device = kwargs.get("device", next((one for one in args if not isinstance(one, torch.dtype)), None))
        non_blocking = bool(kwargs.get("non_blocking"))

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_floating_point():
                return tensor.to(*args, **kwargs)  # type: ignore[call-overload, no-any-return]
            return tensor if device is None else tensor.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        self.data = map_tensors(dict(self), moved)
        return self

    def pin_memory(self) -> Self:
        """A batch with every tensor in page-locked memory, which a `DataLoader` with `pin_memory=True` asks for."""
        return type(self)(map_tensors(dict(self), torch.Tensor.pin_memory))


def map_tensors(value: object, change: Callable[[torch.Tensor], torch.Tensor]) -> object:
    """The same structure of lists, tuples and mappings with every tensor in it changed; what else is there stays."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        changed = {name: map_tensors(item, change) for name, item in value.items()}
        return LayerMasks(changed) if isinstance(value, LayerMasks) else changed
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    if type(value).__name__ == "BlockMask":  # without its module, which takes long to import
        return map_block_mask(value, change)  # type: ignore[arg-type]
    return value


def cast_media(name: str, value: object, dtype: torch.dtype) -> object:
    """An input of the model with pixels and audio features in another dtype.

    Masks stay, and numbers of which there is one for each item (Qwen2.5-VL's `second_per_grid_ts`): positions are
    computed from them, for which bfloat16 is too coarse.

    Args:
        name: Its name.
        value: A tensor, or nested lists of them.
        dtype: A floating dtype.
    """
    if "mask" in name:
        return value
    return map_tensors(
        value, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() and tensor.ndim > 1 else tensor
    )
