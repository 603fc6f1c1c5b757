"""The oracle of a processor that takes one list of images for all rows: GOT-OCR 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdatasets.testing.oracles import Expected, Tensors

if TYPE_CHECKING:
    from mmdatasets.testing.conformance import Run


def flat_oracle(run: Run) -> Expected:
    """A processor's own call on rendered texts and one list of images for all rows.

    Without images the processor refuses the call: the tokenizer on the rendered text stands in for it.
    """
    processor = run.subject.processor
    texts = [processor.apply_chat_template(row.messages) for row in run.rows]
    rows = [_call(run, [text], paths) for text, paths in zip(texts, run.paths, strict=True)]
    batch = _call(run, texts, [path for paths in run.paths for path in paths])
    return Expected("processor(text=..., images=...) with one list of images", batch, rows)


def _call(run: Run, texts: Sequence[str], paths: Sequence[str]) -> Tensors:
    processor = run.subject.processor
    if not paths:
        return processor.tokenizer(list(texts), return_tensors="pt", padding=True)  # type: ignore[no-any-return]
    images = [processor.image_processor.fetch_images(path) for path in paths]
    return processor(text=list(texts), images=images, return_tensors="pt", padding=True)  # type: ignore[no-any-return]
