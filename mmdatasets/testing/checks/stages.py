"""Checks of the three stages one by one, with the signatures that other trainers call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.conformance import Run
from mmdatasets.testing.inputs import PER_TOKEN, Nested, require, require_same_inputs
from mmdatasets.testing.oracles import Expected
from mmdatasets.testing.scenarios import Chat
from mmdatasets.types import MODALITIES


def stages(run: Run, expected: Expected) -> None:
    """`process_messages`, its strings in the chat template, and `process_token_ids` give the processor's ids.

    The strings are put in after rendering, as trainers with templates of their own do it: a chat template that trims
    strings would cut off what an expansion begins or ends with (Gemma 3's newlines). Where a template has the media of
    typed parts elsewhere than a string has them, the processor is called on the strings with each media token once.
    """
    engine = run.plugin.engine
    for index in range(len(run.rows)):
        text = _rendered(run, _messages(run, run.subject.stages, index))
        ids = engine.tokenizer(text, add_special_tokens=engine.adds_special_tokens(text))["input_ids"]
        media, processor = run.stage_media(index), run.subject.processor
        ids, _ = run.subject.stages.process_token_ids(ids, None, *media, engine.tokenizer, processor)
        short = _rendered(run, _messages(run, run.subject.short_stages, index))
        theirs = _processor_ids(run, expected, short, index) or expected.ids(index)
        require(ids == theirs, f"ids of row {index} differ from the processor's")


def unexpanded(run: Run, expected: Expected) -> None:
    """With `expand_mm_tokens=False`, `process_messages` writes each item's token once, as the processor expects it.

    The processor's own call on that text gives the row's ids, wherever the template puts typed parts where they stand.
    """
    placeholders = run.plugin.engine.runner.placeholders
    for index, source in enumerate(run.rows):
        messages = _messages(run, run.subject.short_stages, index)
        text = "".join(str(message["content"]) for message in messages)
        for modality in MODALITIES:
            items = sum(spec.modality == modality for spec in source.media)
            found = text.count(placeholders[modality]) if modality in placeholders else 0
            require(found == items, f"{found} {modality} token(s) for {items} item(s) in row {index}")
        ids = _processor_ids(run, expected, _rendered(run, messages), index)
        require(ids is not None, f"the processor refuses the text of row {index}")
        made, wanted = (_media_counts(run, row) for row in (ids or [], expected.ids(index)))
        require(made == wanted, f"the processor makes {made} media tokens of row {index}, not {wanted}")


def media_inputs(run: Run, expected: Expected) -> None:
    """`get_mm_inputs` returns what the call makes beside ids and mask: the same names, types, shapes and values."""
    everything: list[tuple[range, list[list[int]], Nested]] = []
    if expected.batch is not None:
        everything = [(range(len(run.rows)), run.batch["input_ids"].tolist(), expected.batch)]  # type: ignore[list-item]
    else:
        everything = [(range(i, i + 1), [expected.ids(i)], expected.rows[i]) for i in range(len(run.rows))]  # type: ignore[misc]
    for rows, ids, theirs in everything:
        wanted = run.oracle.stage_inputs(run, theirs, ids)  # type: ignore[arg-type]
        require_same_inputs(_get_mm_inputs(run, rows, ids), wanted)


def _get_mm_inputs(run: Run, rows: Sequence[int], batch_ids: list[list[int]]) -> dict[str, Nested]:
    images, videos, audios = zip(*(run.stage_media(index) for index in rows), strict=True)
    flat = [[item for row in column for item in row] for column in (images, videos, audios)]
    lengths = [[len(row) for row in column] for column in (images, videos, audios)]
    made = run.subject.stages.get_mm_inputs(*flat, *lengths, batch_ids, run.subject.processor)  # type: ignore[call-arg]
    return {name: torch.as_tensor(value) if name in PER_TOKEN else value for name, value in made.items()}


def _messages(run: Run, plugin: BasePlugin, index: int) -> Chat:
    media = run.stage_media(index)
    return plugin.process_messages(run.rows[index].strings, *media, run.subject.processor)


def _rendered(run: Run, messages: Chat) -> str:
    """The turns as the chat template writes them, and the contents as they are."""
    marks = [f"\U0010fff4{index}\U0010fff4" for index in range(len(messages))]
    turns = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    text = run.oracle.render(run, turns)
    for mark, message in zip(marks, messages, strict=True):
        text = text.replace(mark, str(message["content"]))
    return text


def _processor_ids(run: Run, expected: Expected, text: str, index: int) -> list[int] | None:
    """What the processor makes of a text, if anything: of the one that its template writes it was asked already."""
    if text == run.oracle.render(run, run.chats[index]):
        return expected.ids(index)
    return run.oracle.encode_text(run, text, index)


def _media_counts(run: Run, ids: Sequence[int]) -> list[int]:
    return [list(ids).count(token) for token in run.plugin.engine.media_token_ids]
