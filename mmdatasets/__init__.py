"""mmdatasets: chat data with images, videos and audio, made into training batches inside the Hugging Face stack."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mmdatasets._version import __version__

if TYPE_CHECKING:
    from mmdatasets.collate.sampler import MediaBudgetBatchSampler
    from mmdatasets.options import MediaOptions, ShrinkFloor
    from mmdatasets.plugins.registry import auto_plugin, get_mm_plugin, list_mm_plugins, register_mm_plugin
    from mmdatasets.shards.preprocess import preprocess

# Public name -> module. Resolved at first use, so that importing the package loads neither torch nor transformers.
_EXPORTS = {
    "MediaBudgetBatchSampler": "mmdatasets.collate.sampler",
    "MediaOptions": "mmdatasets.options",
    "ShrinkFloor": "mmdatasets.options",
    "auto_plugin": "mmdatasets.plugins.registry",
    "get_mm_plugin": "mmdatasets.plugins.registry",
    "list_mm_plugins": "mmdatasets.plugins.registry",
    "preprocess": "mmdatasets.shards.preprocess",
    "register_mm_plugin": "mmdatasets.plugins.registry",
}

__all__ = [
    "MediaBudgetBatchSampler",
    "MediaOptions",
    "ShrinkFloor",
    "__version__",
    "auto_plugin",
    "get_mm_plugin",
    "list_mm_plugins",
    "preprocess",
    "register_mm_plugin",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
