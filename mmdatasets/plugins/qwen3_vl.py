"""Qwen3-VL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin


@dataclass(eq=False)
class Qwen3VLPlugin(Qwen2VLPlugin):
    """Images are sized and counted as in Qwen2-VL, with patches of 16 pixels (a setting of the processor)."""

    name = "qwen3_vl"
    processor_classes: ClassVar[tuple[str, ...]] = ("Qwen3VLProcessor",)
