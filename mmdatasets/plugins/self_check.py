"""Compares what a plugin makes of small probes with the processor's own call, before anybody trains on it.

The processor's hooks say what an item becomes where its placeholder stands. What its call does besides, to the text
or to its inputs, no hook tells. So a plugin that knows nothing of its processor asks for it once in each process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from mmdatasets.collate.rows import as_reference
from mmdatasets.errors import MMDatasetsError, ProcessorMismatchError, TemplateError
from mmdatasets.options import MediaOptions
from mmdatasets.plugins.call_frame import CallFrame, FramedEngine, frames_between
from mmdatasets.plugins.own_call import call_processor, probe_chat
from mmdatasets.types import FramePlan, MediaInput, Modality, VideoShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine

Processor: TypeAlias = "ProcessorMixin | PreTrainedTokenizerBase"

# For processors without a template: the stages work all the same.
_PLAIN_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
_PROBES: tuple[tuple[Modality, ...], ...] = ((), ("image",), ("image", "image"), ("video",), ("audio",))
_MANY_FRAMES = 32
_LONGEST_QUOTE = 60


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What a plugin makes of a probe, where the processor's own call makes something else of it.

    Attributes:
        kinds: The modalities of the probe's items.
        found: What differs, in words.
        ours: The plugin's token ids.
        theirs: The call's; empty where it refuses the probe.
    """

    kinds: tuple[Modality, ...]
    found: str
    ours: Sequence[int]
    theirs: Sequence[int]

    def as_error(self, processor: object) -> ProcessorMismatchError:
        """The error that says so."""
        probe = f"a chat with {len(self.kinds)} {self.kinds[0]}(s)" if self.kinds else "a chat without media"
        return ProcessorMismatchError(
            f"{type(processor).__name__} does more in its call than its hooks tell: of {probe}, {self.found}. What "
            "the generic plugin makes of this processor's data would not be what its model expects. Write a plugin "
            "for it, as docs/adding_a_family.md shows"
        )


def make_checked_engine(plugin: BasePlugin, processor: Processor, options: MediaOptions) -> FramedEngine:
    """What a plugin computes with, once it was compared with the processor's own call.

    The probes are a short chat, the same with an image, with two, with a video, and with audio. Where the plugin
    refuses one, that says nothing: it refuses rows like it with the reason. Where the call refuses the first or the
    third, that says nothing either; where it refuses an item, nothing could tell whether the plugin is right, and the
    engine goes without that modality. Where the call only puts special tokens around every text, the engine does too.

    The comparison is made with options of which none is set, for the call knows nothing of them.

    Args:
        plugin: The plugin. It is not changed.
        processor: The model's processor.
        options: How media is read and sized.

    Returns:
        The engine. It goes without videos or audio also where these differ.

    Raises:
        ProcessorMismatchError: If token ids or the names, types or shapes of inputs differ otherwise. Says which.
    """
    unset = MediaOptions()
    checked = _check(plugin, processor, unset)
    if options == unset:
        return checked
    engine = FramedEngine(plugin, processor, options, checked.frame)
    for modality, reason in checked.media.refused.items():
        engine.media.refuse(modality, reason)
    return engine


def _check(plugin: BasePlugin, processor: Processor, options: MediaOptions) -> FramedEngine:
    """An engine that makes of the probes what the call does.

    Raises:
        ProcessorMismatchError: If there is none.
    """
    engine = FramedEngine(plugin, processor, options)
    mismatch = _find_mismatch(plugin, engine)
    if mismatch is None:
        return engine
    for frame in frames_between(mismatch.ours, mismatch.theirs, engine.tokenizer):
        framed = FramedEngine(plugin, processor, options, frame)
        if _find_mismatch(plugin, framed) is None and _find_mismatch(plugin, framed, frame) is None:
            return framed
    raise mismatch.as_error(processor)


def _find_mismatch(plugin: BasePlugin, engine: FramedEngine, within: CallFrame | None = None) -> Mismatch | None:
    """The first probe on which plugin and call differ, where the template puts a frame around texts, if one is given.

    Modalities that the model is to go without are refused by the engine from then on.
    """
    if engine.runner.tokenizer is engine.runner.processor:
        return None
    probed = _with_engine(plugin, engine, within)
    for kinds in _PROBES:
        if not all(kind in engine.runner.placeholders for kind in kinds):
            continue
        mismatch = _compare(probed, kinds)
        if mismatch is None:
            continue
        if not mismatch.theirs or kinds in (("video",), ("audio",)):
            engine.media.refuse(kinds[0], mismatch.as_error(engine.runner.processor).message)
        else:
            return mismatch
    return None


def _with_engine(plugin: BasePlugin, engine: FramedEngine, within: CallFrame | None) -> BasePlugin:
    """A copy of the plugin that computes with an engine, so that making the probes checks nothing again."""
    copy = dataclasses.replace(
        plugin,
        processor=engine.runner.processor,
        options=engine.options,
        layout=None,
        max_length=None,
        on_overflow="error",
        on_error="raise",
        row_log=None,
    )
    try:
        source = engine.template.source
    except TemplateError:
        source = _PLAIN_TEMPLATE
    if within is None and source is not _PLAIN_TEMPLATE:
        copy.__dict__["engine"] = engine
        return copy
    copy = dataclasses.replace(copy, chat_template=source if within is None else within.in_template(source))
    copy.__dict__["engine"] = engine.for_plugin(copy)
    return copy


def _compare(plugin: BasePlugin, kinds: tuple[Modality, ...]) -> Mismatch | None:
    made = _make_row(plugin, kinds)
    if made is None:
        return None
    media, row = made
    ours = row["input_ids"]
    try:
        theirs = call_processor(plugin.engine, kinds, media)
    except Exception as error:  # processors raise what their code raises
        # Fuyu's call writes the image's tokens itself, and takes no placeholder.
        found = f"which it refuses ({type(error).__name__}: {error}), the plugin makes a row"
        return Mismatch(kinds, found, ours, []) if len(kinds) == 1 else None
    if "input_ids" not in theirs:
        return None
    own = _first_row(theirs["input_ids"])
    found = _describe_ids(ours, own, plugin.engine.tokenizer)
    if len(kinds) < 2:
        found = found or _describe_inputs(plugin, row, theirs)
    return Mismatch(kinds, found, ours, own) if found else None


def _make_row(
    plugin: BasePlugin, kinds: Sequence[Modality]
) -> tuple[Sequence[MediaInput], Mapping[str, list[int]]] | None:
    """The items of a probe that the plugin takes, and the row that its transform makes; `None` where it takes none."""
    for item in _noise(plugin.engine, kinds[0]) if kinds else (None,):
        media = [item] * len(kinds) if item is not None else []
        try:
            return media, _mapped(plugin, kinds, media)
        except MMDatasetsError:
            continue
    return None


def _noise(engine: Engine, kind: Modality) -> Iterator[MediaInput]:
    """Small items of noise: what they become must not depend on more than their shapes."""
    try:
        blank = engine.blank(kind)[0]
    except MMDatasetsError:
        return
    generator = np.random.default_rng(0)
    if isinstance(blank.data, np.ndarray):
        yield replace(blank, data=generator.uniform(-0.1, 0.1, blank.data.shape).astype(np.float32))
        return
    pixels = torch.from_numpy(generator.integers(0, 256, tuple(blank.data.shape), dtype=np.uint8))
    yield replace(blank, data=pixels)
    if isinstance(blank.shape, VideoShape):
        # Some processors sample more frames than others take at least.
        times = tuple(map(float, range(_MANY_FRAMES)))
        shape = replace(blank.shape, frames=FramePlan(tuple(range(_MANY_FRAMES)), times))
        shape = replace(shape, num_source_frames=_MANY_FRAMES, duration_s=float(_MANY_FRAMES))
        yield MediaInput(shape, pixels[torch.arange(_MANY_FRAMES) % len(pixels)])


def _mapped(plugin: BasePlugin, kinds: Sequence[Modality], media: Sequence[MediaInput]) -> dict[str, list[int]]:
    """The probe as the plugin's transform makes it, in a batch of one row."""
    columns: dict[str, list[object]] = {plugin.messages_column: [probe_chat(kinds)]}
    for kind in dict.fromkeys(kinds):
        own = [item for item in media if item.modality == kind]
        rate = plugin.engine.runner.sampling_rate if kind == "audio" else 0
        columns[plugin.media_columns[kind]] = [[as_reference(item, rate) for item in own]]
    made = plugin.transform(columns)
    return {name: column[0] for name, column in made.items()}  # type: ignore[misc]


def _first_row(ids: object) -> list[int]:
    row = ids[0]  # type: ignore[index]
    return list(row.tolist() if isinstance(row, torch.Tensor) else row)


def _describe_ids(ours: Sequence[int], theirs: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """In what the call's token ids differ from the plugin's; empty where they do not."""
    if list(ours) == list(theirs):
        return ""
    start = _num_shared(ours, theirs)
    rest, their_rest = list(ours[start:]), list(theirs[start:])
    shared = _num_shared(rest[::-1], their_rest[::-1])
    mine = _quote(rest[: len(rest) - shared], tokenizer)
    other = _quote(their_rest[: len(their_rest) - shared], tokenizer)
    where = "at the beginning" if start == 0 else "at the end" if shared == 0 else f"at token {start}"
    return f"it makes {other} {where}, the plugin {mine}"


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _quote(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    if not ids:
        return "nothing"
    text = tokenizer.decode(ids)
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def _describe_inputs(plugin: BasePlugin, row: Mapping[str, object], theirs: Mapping[str, object]) -> str:
    """In what the call's inputs differ from those of the plugin's collator; empty where they do not."""
    try:
        ours = plugin.collator()([row])
    except MMDatasetsError:
        return ""
    missing, further = set(theirs) - set(ours), set(ours) - set(theirs) - {"labels"}
    if missing:
        return f"it makes {', '.join(sorted(missing))}, which the plugin does not"
    if further:
        return f"it does not make {', '.join(sorted(further))}, which the plugin does"
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor) and _form(value) != _form(ours[name]):
            return f"its {name} is {_form(value)}, the plugin's {_form(ours[name])}"
    return ""


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
