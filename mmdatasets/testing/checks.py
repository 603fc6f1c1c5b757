"""The checks of the conformance suite. Each raises where a plugin fails it, and `NotApplicable` where it says nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import torch

from mmdatasets.options import MediaOptions
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.media import cut_pixel_data
from mmdatasets.testing.oracles import Expected, Tensors
from mmdatasets.transforms.tokenise import IGNORE_INDEX

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
            raise NotApplicable(f"the oracle refuses row {index}")
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
            _, expansions = run.plugin.process_images(engine, [engine.load_images(paths)])
            made = sum(expansion.num_media_tokens for expansion in expansions)
        _require(planned == placed == made, f"planned {planned}, placed {placed}, made {made} features")


def stages(run: Run, expected: Expected) -> None:
    """`process_messages`, the template on its strings, and `process_token_ids` give what the processor's call gives.

    The processor is called on the same strings with each media token once, since templates may put the images of typed
    parts elsewhere than a string has them.
    """
    plugin, engine = run.plugin, run.plugin.engine
    once = replace(plugin, expand_mm_tokens=False)
    for row, paths in zip(run.rows, run.paths, strict=True):
        messages = plugin.process_messages(row.messages, paths, [], [], None)
        text = engine.template.render(messages).text
        ids = engine.tokenizer(text, add_special_tokens=engine.adds_special_tokens(text))["input_ids"]
        ids, _ = plugin.process_token_ids(ids, None, paths, [], [], engine.tokenizer, None)
        short = engine.template.render(once.process_messages(row.messages, paths, [], [], None)).text
        theirs = _call_on_text(run, short, paths)
        if theirs is None:
            raise NotApplicable("the processor takes no such text by itself")
        _require(ids == theirs, "the stages' ids differ from the processor's on the same text")


def _call_on_text(run: Run, text: str, paths: list[str]) -> list[int] | None:
    processor = run.subject.processor
    special = run.plugin.engine.adds_special_tokens(text)
    images = [[processor.image_processor.fetch_images(path) for path in paths]] if paths else None
    try:
        made = processor(text=[text], images=images, add_special_tokens=special)
    except (ValueError, TypeError):
        return None
    return list(made["input_ids"][0])


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
    """Under `MediaOptions(image_max_pixels=...)` what is planned is collated, and no image grows."""
    if not run.scenario.has_images:
        raise NotApplicable("no images")
    plugin = replace(run.plugin, options=MediaOptions(image_max_pixels=_BUDGET))
    rows = run.transform(plugin, run.paths)
    plugin.collator()(rows)  # checks that features fit
    for paths in run.paths:
        for image in plugin.engine.load_images(paths) if not plugin.processor_sizes_images else ():
            _require(image.shape[1] * image.shape[2] <= _BUDGET, f"{tuple(image.shape)} exceeds the budget")
    for row, other in zip(rows, run.mapped, strict=True):
        for ours, own in zip(row["media_info"], other["media_info"], strict=True):  # type: ignore[call-overload]
            _require(ours["num_tokens"] <= max(own["num_tokens"], 1), "a budget made an image larger")


def model_steps(run: Run, expected: Expected) -> None:
    """The tiny model runs forward and backward on the batch, and the gradient reaches the text embedding."""
    model = _model(run)
    model.zero_grad()
    output = model(**run.batch)
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
        together = model(**_without_labels(run.batch)).logits
        for index, theirs in enumerate(expected.rows):
            if theirs is None:
                raise NotApplicable(f"the oracle refuses row {index}")
            alone = model(**_without_labels(theirs)).logits[0]
            ours = together[index][run.batch["attention_mask"][index].bool()]
            error = (ours - alone).abs().max().item()
            scale = alone.abs().max().item()
            _require(error <= _ABSOLUTE + _RELATIVE * scale, f"logits of row {index} are off by {error:.2g} of {scale:.2g}")


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
    output = model(**ensured)
    with torch.no_grad():
        plain = model(**run.batch)
    output.loss.backward()
    error = abs(output.loss.item() - plain.loss.item())
    _require(error <= _ABSOLUTE + _RELATIVE * plain.loss.item(), f"the loss changes by {error:.2g}")
    towers = [p.grad for n, p in model.named_parameters() if "vis" in n or "image" in n]
    _require(any(gradient is not None for gradient in towers), "the vision tower takes no part in the backward pass")
    _require(ensured["input_ids"].shape[1] >= length, "rows were cut")


def _model(run: Run) -> torch.nn.Module:
    if run.scenario.too_large_for_models:
        raise NotApplicable(run.scenario.too_large_for_models)
    return run.subject.model


def _without_labels(batch: Tensors | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


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
