"""Checks of the batches that a plugin's collator makes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torchvision.transforms.v2 import functional as tv

from mmdatasets.collate.rows import media_of
from mmdatasets.options import MediaOptions
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.checks.models import compare_logits, model_refuses
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import Inputs, flat, model_inputs, require, require_same_inputs
from mmdatasets.testing.oracles import Arguments, Expected
from mmdatasets.testing.scenarios import Chat, Row, with_media
from mmdatasets.testing.specs import ImageSpec
from mmdatasets.types import MediaItem, VideoShape

if TYPE_CHECKING:
    import torch

_BUDGET = 40_000
_FRAME_BUDGETS = (MediaOptions(video_max_pixels=9_000), MediaOptions(video_min_pixels=30_000))
"""Below and above the pixels of every clip's frames."""
NOT_ONE_VIDEO = "not one video alone"
"""Why the budget of frames is not tried: what it does to a video does not depend on what stands beside it."""


def tensors(run: Run, expected: Expected) -> None:
    """The batch is exactly the oracle's; where that takes rows alone only, each row's batch is exactly its.

    Tensors that preference data repeats for its two sides are those of the rows twice.
    """
    if len(run.rows) > 1 and run.plugin.outputs_are_stacked:
        _require_stacked(run)
    if expected.batch is not None:
        _require_same(run, run.batch, expected.batch)
        return
    for row, theirs in zip(run.mapped, expected.rows, strict=True):
        if theirs is None:
            raise NotApplicable("the oracle refuses a row")
        _require_same(run, _collated(run, run.plugin, [row]), theirs)


def _require_stacked(run: Run) -> None:
    collator = run.plugin.collator(padding_side=run.oracle.padding_side)
    media = [collator.media_of_row(row, index) for index, row in enumerate(run.mapped)]
    ids = [list(row["input_ids"]) for row in run.mapped] * 2  # type: ignore[call-overload]
    padded = collator.pad({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    repeated, twice = collator.complete(dict(padded), media, 2), collator.complete(dict(padded), [*media, *media])
    require_same_inputs(flat(repeated), flat(twice))


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
    _require_alike(run, plugin, rows, chats, arguments)


def frame_budget(run: Run, expected: Expected) -> None:
    """Bounds on frames' pixels give what the processor gives with its own arguments, or of resized frames.

    Where the processor has no argument for them, the oracle resizes the decoded frames itself, to the size that is
    planned, which has to keep the budget.
    """
    if run.scenario.modalities != {"video"} or sum(len(row.media) for row in run.rows) > 1:
        raise NotApplicable(NOT_ONE_VIDEO)
    for options in _FRAME_BUDGETS:
        plugin = replace(run.plugin, options=options)
        rows = run.transform(plugin)
        arguments: Arguments = plugin.processor_kwargs(run.subject.processor, options)
        if "video" in arguments:
            count, usual = _num_tokens(rows), _num_tokens(run.mapped)
            require(count != usual, "the budget changes nothing, though processor_kwargs says that it would")
            require(count < usual or not options.video_max_pixels, f"the budget makes {usual} tokens {count}")
        chats = [_with_resized_frames(run, plugin, index, row) for index, row in enumerate(rows)]
        _require_alike(run, plugin, rows, chats, arguments)


def _require_alike(
    run: Run, plugin: BasePlugin, rows: Sequence[dict[str, object]], chats: Sequence[Chat], arguments: Arguments
) -> None:
    """The batch is what the oracle makes of the conversations with the arguments, or row by row where it must."""
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


def _with_resized_frames(run: Run, plugin: BasePlugin, index: int, made: dict[str, object]) -> Chat:
    """A row whose videos say, where the plugin resizes them before the processor, to what: the oracle does it."""
    row, engine = run.rows[index], plugin.engine
    references = row.references(run.files[index])
    if not engine.runner.sizes("video"):
        shapes = [engine.media.shape(plan) for plan in media_of(made, engine).plans if plan is not None]
        sizes = [(shape.width, shape.height) for shape in shapes if isinstance(shape, VideoShape)]
        low, high = plugin.options.video_min_pixels or 0, plugin.options.video_max_pixels or sys.maxsize
        for width, height in sizes:
            require(low <= width * height <= high, f"{width}x{height} pixels are not from {low} to {high}")
        references = [{**one, "size": size} for one, size in zip(references, sizes, strict=True)]  # type: ignore[dict-item]
    return with_media(row.messages, references)
