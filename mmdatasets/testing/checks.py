"""The checks of the conformance suite. Each raises where a plugin fails it, `NotApplicable` where it says nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from mmdatasets.options import MediaOptions
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.media import cut_pixel_data
from mmdatasets.testing.oracles import Expected, Tensors, own_call
from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.tokenise import IGNORE_INDEX
from mmdatasets.types import MediaItem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmdatasets.chat.formats import Message

Check: TypeAlias = Callable[[Run, Expected], None]

_SEQUENCE_LIKE = ("input_ids", "attention_mask", "labels", "token_type_ids")
_BUDGET = 40_000
_ABSOLUTE, _RELATIVE = 2e-5, 1e-4


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _same(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    theirs = torch.as_tensor(theirs)
    _require(ours.shape == theirs.shape, f"{name} is {tuple(ours.shape)}, the oracle's {tuple(theirs.shape)}")
    _require(ours.dtype == theirs.dtype, f"{name} is {ours.dtype}, the oracle's {theirs.dtype}")
    _require(torch.equal(ours, theirs), f"{name} differs from the oracle's")


def token_ids(run: Run, expected: Expected) -> None:
    """Every row's ids are exactly the oracle's."""
    for index, (row, theirs) in enumerate(zip(run.mapped, expected.rows, strict=True)):
        if theirs is None:
            raise AssertionError(f"the oracle refuses row {index}, which leaves nothing to compare with")
        _require(row["input_ids"] == theirs["input_ids"][0].tolist(), f"ids of row {index} differ from the oracle's")


def tensors(run: Run, expected: Expected) -> None:
    """The batch is exactly the oracle's; where that takes rows alone only, each row's tensors are exactly its."""
    if expected.batch is not None:
        names = set(expected.batch)
        _require(set(run.batch) - {"labels"} == names, f"inputs {sorted(run.batch)}, the oracle's {sorted(names)}")
        for name in names:
            if isinstance(expected.batch[name], torch.Tensor):
                _same(name, run.batch[name], expected.batch[name])
        return
    for row, theirs in zip(run.mapped, expected.rows, strict=True):
        if theirs is None:
            raise NotApplicable("the oracle refuses a row")
        ours = run.plugin.collator()([row])
        _require(set(theirs) <= set(ours), f"inputs {sorted(ours)}, the oracle's {sorted(theirs)}")
        for name in theirs:
            _same(name, ours[name], theirs[name])


def features_fit(run: Run, expected: Expected) -> None:
    """The plan, the ids and the processor's own expansion of the decoded images agree in number."""
    engine = run.plugin.engine
    for row, paths in zip(run.mapped, run.paths, strict=True):
        infos = row["media_info"]
        planned = sum(info["num_tokens"] for info in infos)  # type: ignore[attr-defined]
        placed = int(engine.is_media_token(np.asarray(row["input_ids"])).sum())
        made = 0
        if paths:
            _, expansions = run.plugin.process_images(engine, [_decoded(engine, paths)])
            made = sum(expansion.num_media_tokens for expansion in expansions)
        _require(planned == placed == made, f"planned {planned}, placed {placed}, made {made} features")


def _decoded(engine: Engine, paths: list[str]) -> list[torch.Tensor]:
    items = [MediaItem("image", path) for path in paths]
    return [made.data for made in engine.media.load(items, [None] * len(items))]  # type: ignore[misc]


def stages(run: Run, expected: Expected) -> None:
    """`process_messages`, its strings in the template, and `process_token_ids` give what the processor's call gives.

    Where a template puts the images of typed parts elsewhere than a string has them, the processor is called on the
    same strings with each media token once.
    """
    plugin, engine = run.plugin, run.plugin.engine
    once = replace(plugin, expand_mm_tokens=False)
    for row, paths, row_ids in zip(run.rows, run.paths, run.mapped, strict=True):
        text = _fill_template(run, plugin.process_messages(row.messages, paths, [], [], None))
        ids = engine.tokenizer(text, add_special_tokens=engine.adds_special_tokens(text))["input_ids"]
        ids, _ = plugin.process_token_ids(ids, None, paths, [], [], engine.tokenizer, None)
        if ids == row_ids["input_ids"]:
            continue  # and those were compared with the oracle's
        if run.subject.oracle is not None:
            raise NotApplicable("the template puts images first, and the oracle takes no such text")
        short = _fill_template(run, once.process_messages(row.messages, paths, [], [], None))
        _require(ids == _call_on_text(run, short, paths), "the stages' ids differ from the processor's on that text")


def _fill_template(run: Run, messages: list[Message]) -> str:
    """Renders the turns and puts the contents in, which a template might trim."""
    marks = [f"\U0010fff4{index}\U0010fff4" for index in range(len(messages))]
    text = run.plugin.engine.template.render(
        [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    ).text
    for mark, message in zip(marks, messages, strict=True):
        text = text.replace(mark, str(message["content"]))
    return text


def _call_on_text(run: Run, text: str, paths: list[str]) -> list[int]:
    processor = run.subject.processor
    special = run.plugin.engine.adds_special_tokens(text)
    images = [[processor.image_processor.fetch_images(path) for path in paths]] if paths else None
    return list(processor(text=[text], images=images, add_special_tokens=special)["input_ids"][0])


def header_only(run: Run, expected: Expected) -> None:
    """Files whose pixel data is cut off map to the same rows."""
    if not run.scenario.has_images:
        raise NotApplicable("no images")
    with TemporaryDirectory() as folder:
        cut = [[str(_cut(Path(path), Path(folder))) for path in paths] for paths in run.paths]
        again = run.transform(run.plugin, cut)
    for row, other in zip(run.mapped, again, strict=True):
        _require(row["input_ids"] == other["input_ids"], "ids change when pixel data is cut off")
        _require(row["media_info"] == other["media_info"], "media_info changes when pixel data is cut off")


def _cut(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(cut_pixel_data(path.read_bytes()))
    return copy


def labels(run: Run, expected: Expected) -> None:
    """Answers are trained, media spans are not, and a trained label is its token."""
    decode = run.plugin.engine.tokenizer.decode
    for row, source in zip(run.mapped, run.rows, strict=True):
        ids, targets = np.asarray(row["input_ids"]), np.asarray(row["labels"])
        trained = targets != IGNORE_INDEX
        _require(np.array_equal(ids[trained], targets[trained]), "a label is not its token")
        _require(not (trained & run.plugin.engine.is_media_token(ids)).any(), "a media token is trained")
        for info in row["media_info"]:  # type: ignore[attr-defined]
            _require(not trained[info["start"] : info["end"]].any(), "a media span is trained")
        text = decode(targets[trained].tolist())
        for answer in source.answers:
            _require(answer in text, f"the answer {answer!r} is not trained")
        for message in source.messages:
            for part in message["content"] if message["role"] == "user" else ():  # type: ignore[attr-defined]
                _require(part.get("text", "\0") not in text, f"the question {part.get('text')!r} is trained")


def pickling(run: Run, expected: Expected) -> None:
    """An unpickled plugin gives the same rows and the same pickle."""
    pickled = pickle.dumps(run.plugin)
    copy = pickle.loads(pickled)
    _require(run.transform(copy, run.paths) == run.mapped, "an unpickled plugin gives other rows")
    _require(pickle.dumps(copy) == pickled, "an unpickled plugin pickles differently")


def pixel_budget(run: Run, expected: Expected) -> None:
    """`MediaOptions(image_max_pixels=...)` gives what the processor gives with its own arguments or resized images."""
    if not run.scenario.has_images:
        raise NotApplicable("no images")
    options = MediaOptions(image_max_pixels=_BUDGET)
    plugin = replace(run.plugin, options=options)
    rows = run.transform(plugin, run.paths)
    ours = plugin.collator()(rows)  # checks that features fit
    images = [_decoded(plugin.engine, paths) for paths in run.paths]
    if not plugin.processor_sizes_images:
        for image in (image for row in images for image in row):
            _require(image.shape[1] * image.shape[2] <= _BUDGET, f"{tuple(image.shape)} exceeds the budget")
    arguments = plugin.processor_kwargs(run.subject.processor, options).get("image", {})
    theirs = own_call(run, images, arguments)
    if theirs is None or run.subject.oracle is not None:
        raise NotApplicable("the processor refuses the batch: only that plan and features agree was checked")
    for name, value in theirs.items():
        _same(name, ours[name], value)


def model_steps(run: Run, expected: Expected) -> None:
    """The tiny model runs forward and backward on the batch, and the gradient reaches the text embedding."""
    model = _model(run)
    model.zero_grad()
    try:
        output = model(**_inputs(model, run.batch))
    except RuntimeError as error:
        raise _model_refuses(model, expected, error) from error
    output.loss.backward()
    _require(torch.isfinite(output.loss), f"the loss is {output.loss.item()}")
    gradient = model.get_input_embeddings().weight.grad
    _require(gradient is not None and bool(gradient.abs().sum() > 0), "no gradient reaches the embedding")


def logits(run: Run, expected: Expected) -> None:
    """The batch gives the tiny model the same logits, row by row, as each row alone through the oracle.

    Swapped features, wrong masks and wrong routing pass every count, but not this.
    """
    model = _model(run)
    with torch.no_grad():
        try:
            together = model(**_inputs(model, run.batch, labels=False)).logits
        except RuntimeError as error:
            raise _model_refuses(model, expected, error) from error
        for index, theirs in enumerate(expected.rows):
            if theirs is None:
                raise NotApplicable(f"the oracle refuses row {index}")
            if missing := set(run.batch) - set(theirs) - {"labels"} - _media_names(run):
                raise NotApplicable(f"the oracle says nothing of {', '.join(sorted(missing))} in row {index}")
            alone = model(**_inputs(model, theirs, labels=False)).logits[0]
            ours = together[index][run.batch["attention_mask"][index].bool()]
            difference, scale = (ours - alone).abs().max().item(), alone.abs().max().item()
            off = f"row {index}: logits off by {difference:.2g} of {scale:.2g}"
            _require(difference <= _ABSOLUTE + _RELATIVE * scale, off)


def ensured_media(run: Run, expected: Expected) -> None:
    """`ensure_media=True` has a text-only batch run the vision tower and changes nothing else; without, nothing is."""
    if run.scenario.has_images:
        raise NotApplicable("the batch has media")
    if "image" not in run.plugin.engine.runner.placeholders:
        raise NotApplicable("no images")
    _require(set(run.batch) <= {*_SEQUENCE_LIKE, "mm_token_type_ids", "moe_mm_token_type_ids"}, "media without asking")
    model = _model(run)
    ensured = run.plugin.collator(ensure_media=True)(run.mapped)
    length = max(len(row["input_ids"]) for row in run.mapped)  # type: ignore[arg-type]
    _require(len(set(ensured) - set(run.batch)) > 0, "no media was added")
    model.zero_grad()
    output = model(**_inputs(model, ensured))
    with torch.no_grad():
        plain = model(**_inputs(model, run.batch))
    output.loss.backward()
    change = abs(output.loss.item() - plain.loss.item())
    _require(change <= _ABSOLUTE + _RELATIVE * plain.loss.item(), f"the loss changes by {change:.2g}")
    towers = [p.grad for n, p in model.named_parameters() if "vis" in n or "image" in n]
    _require(any(gradient is not None for gradient in towers), "the vision tower takes no part in the backward pass")
    _require(ensured["input_ids"].shape[1] >= length, "rows were cut")


def _media_names(run: Run) -> set[str]:
    """Inputs that a row without media does not have."""
    text_only = {*_SEQUENCE_LIKE, "mm_token_type_ids", "moe_mm_token_type_ids"}
    return set(run.batch) - text_only


def _model(run: Run) -> PreTrainedModel:
    if run.scenario.too_large_for_models:
        raise NotApplicable(run.scenario.too_large_for_models)
    return run.subject.model


def _inputs(model: PreTrainedModel, batch: Tensors, *, labels: bool = True) -> dict[str, torch.Tensor]:
    """A batch in the model's precision (Llama 4's processor gives bfloat16)."""
    names = [name for name in batch if labels or name != "labels"]
    return {name: batch[name].to(model.dtype) if batch[name].is_floating_point() else batch[name] for name in names}


def _model_refuses(model: PreTrainedModel, expected: Expected, error: RuntimeError) -> Exception:
    """What it means that the model failed on our batch: nothing, where it fails on the processor's own likewise."""
    batch = expected.batch if expected.batch is not None else expected.rows[0]
    if batch is None:
        return error
    try:
        with torch.no_grad():
            model(**_inputs(model, batch, labels=False))
    except RuntimeError as own:
        return NotApplicable(f"the model fails on the processor's own output: {str(own)[:120]}")
    return error


CHECKS: dict[str, Check] = {
    check.__name__.replace("_", " "): check
    for check in (
        token_ids,
        tensors,
        features_fit,
        stages,
        header_only,
        labels,
        pickling,
        pixel_budget,
        model_steps,
        logits,
        ensured_media,
    )
}
