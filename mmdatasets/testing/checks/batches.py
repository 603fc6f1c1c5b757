"""Checks of the batches that a plugin's collator makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torchvision.transforms.v2 import functional as tv

from mmdatasets.options import MediaOptions
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.checks.models import compare_logits, model_refuses
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import Inputs, flat, model_inputs, require, require_same_inputs
from mmdatasets.testing.oracles import Arguments, Expected
from mmdatasets.testing.scenarios import Chat, Row, with_media
from mmdatasets.testing.specs import ImageSpec
from mmdatasets.types import MediaItem

if TYPE_CHECKING:
    import torch

_BUDGET = 40_000


def tensors(run: Run, expected: Expected) -> None:
    """The batch is exactly the oracle's; where that takes rows alone only, each row's batch is exactly its."""
    if expected.batch is not None:
        _require_same(run, run.batch, expected.batch)
        return
    for row, theirs in zip(run.mapped, expected.rows, strict=True):
        if theirs is None:
            raise NotApplicable("the oracle refuses a row")
        _require_same(run, _collated(run, run.plugin, [row]), theirs)


def pixel_budget(run: Run, expected: Expected) -> None:
    """`MediaOptions(image_max_pixels=...)` gives what the processor gives with its own arguments or resized images."""
    if "image" not in run.scenario.modalities:
        raise NotApplicable("no images")
    options = MediaOptions(image_max_pixels=_BUDGET)
    plugin = replace(run.plugin, options=options)
    rows = run.transform(plugin)
    arguments: Arguments = plugin.processor_kwargs(run.subject.processor, options)
    if "image" in arguments and any(_exceeds_budget(row) for row in run.rows):
        fewer = _num_tokens(rows) < _num_tokens(run.mapped)
        require(fewer, "the budget changes nothing, though processor_kwargs says that it would")
    chats = [_with_loaded_images(run, plugin, index) for index in range(len(rows))]
    theirs = run.oracle.encode(run, chats, arguments=arguments)
    if theirs is not None:
        _require_same(run, _collated(run, plugin, rows), theirs)
        return
    for row, chat in zip(rows, chats, strict=True):
        alone = run.oracle.encode(run, [chat], arguments=arguments)
        if alone is None:
            raise NotApplicable("the oracle refuses a row")
        _require_same(run, _collated(run, plugin, [row]), alone)


def other_padding(run: Run, expected: Expected) -> str | None:
    """Padded on the side on which it is not by itself, the batch is the oracle's for that side, with equal logits."""
    if len({len(row["input_ids"]) for row in run.mapped}) == 1:  # type: ignore[arg-type]
        raise NotApplicable("no row is padded")
    batch = run.plugin.collator(padding_side=run.other_side)(run.mapped)
    theirs = expected.padded(run.other_side)
    if theirs is not None:
        _require_same(run, batch, theirs)
    try:
        return compare_logits(run, expected, batch, _logits(run, expected, batch))
    except NotApplicable:
        if theirs is None:
            raise
    return None


def _logits(run: Run, expected: Expected, batch: Inputs) -> torch.Tensor:
    import torch

    model = run.model
    with torch.no_grad():
        try:
            return model(**model_inputs(model, batch, labels=False)).logits  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise model_refuses(run, expected, error) from error


def _collated(run: Run, plugin: BasePlugin, rows: Sequence[dict[str, object]]) -> Inputs:
    made: Inputs = plugin.collator(padding_side=run.oracle.padding_side)(rows)
    return made


def _require_same(run: Run, ours: Inputs, theirs: Inputs) -> None:
    # Where the oracle makes labels, or says what it does not say of other rows, these are compared too.
    unsaid = {"labels", *run.oracle.unsaid} - set(theirs)
    require_same_inputs(flat(ours), theirs, (*run.oracle.added, *unsaid))


def _exceeds_budget(row: Row) -> bool:
    return any(isinstance(spec, ImageSpec) and spec.width * spec.height > _BUDGET for spec in row.media)


def _num_tokens(rows: Sequence[dict[str, object]]) -> int:
    return sum(len(row["input_ids"]) for row in rows)  # type: ignore[arg-type, misc]


def _with_loaded_images(run: Run, plugin: BasePlugin, index: int) -> Chat:
    """A row with its images decoded and, where the plugin does that before the processor, resized to the budget."""
    row, files = run.rows[index], run.files[index]
    references = [MediaItem("image", path) for path in row.only("image", files)]
    loaded = plugin.engine.media.load(references, [None] * len(references))
    images = [tv.to_pil_image(made.data) for made in loaded]  # some processors take no tensors
    if not plugin.engine.runner.sizes("image"):
        for image in images:
            require(image.width * image.height <= _BUDGET, f"{image.width}x{image.height} pixels exceed the budget")
    supply = iter(images)
    others = row.references(files)
    items = [next(supply) if spec.modality == "image" else item for spec, item in zip(row.media, others, strict=True)]
    return with_media(row.messages, items)
