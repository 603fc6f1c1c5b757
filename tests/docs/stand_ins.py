"""Small models under the names of published ones: folders of these names, which `from_pretrained` takes first.

So the code of a page runs as it stands there, without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdatasets.testing import build_model, build_processor
from tests.docs.blocks import Block

# Name on the Hub -> family of the testing package.
STAND_INS = {
    "Qwen/Qwen2-VL-2B-Instruct": "qwen2_vl",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
}


def write_stand_ins(blocks: Sequence[Block], folder: Path) -> None:
    """Writes the processors and models that the blocks name, with random weights."""
    for name, family in STAND_INS.items():
        if any(name in block.code for block in blocks):
            processor = build_processor(family)
            processor.save_pretrained(folder / name)
            build_model(family, processor).save_pretrained(folder / name)
