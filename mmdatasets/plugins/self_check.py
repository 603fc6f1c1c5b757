"""Compares what a plugin makes of small probes with the processor's own call, before anybody trains on it.

The processor's hooks say what an item becomes where its placeholder stands. What its call does besides, to the text
or to its inputs, no hook tells. So a plugin that knows nothing of its processor asks for it once in each process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch

from mmdatasets.chat.formats import Message, as_string
from mmdatasets.errors import MMDatasetsError, ProcessorMismatchError, TemplateError
from mmdatasets.types import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine

# For processors without a template: the stages work all the same.
_PLAIN_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
_PROBES: tuple[tuple[Modality, ...], ...] = ((), ("image",), ("image", "image"))
_LONGEST_QUOTE = 60


def _decoded_image(engine: Engine, item: object) -> object:
    return engine.load_images([item])[0]  # type: ignore[list-item]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """How a modality is probed.

    Attributes:
        argument: What the processor's call names it.
        column: The plugin's attribute that names its column.
        blank: Makes the smallest item that the processor takes.
        decoded: What the collator gives the processor for it.
    """

    argument: str
    column: str
    blank: Callable[[Engine], object]
    decoded: Callable[[Engine, object], object]


_KINDS: Mapping[Modality, _Kind] = {
    "image": _Kind("images", "images_column", lambda engine: engine.blank_image[0], _decoded_image),
}


def check_against_processor(plugin: BasePlugin, engine: Engine) -> None:
    """Checks that a plugin gives what its processor's own call gives.

    The probes are a short chat, the same with a blank item, and with two. Where the processor's call refuses one, or
    the plugin does, that probe says nothing: rows like it are refused with the reason.

    Args:
        plugin: The plugin. It is not changed.
        engine: The engine that it is to compute with.

    Raises:
        ProcessorMismatchError: If token ids or the names, types or shapes of inputs differ. Says which.
    """
    if engine.runner.tokenizer is engine.runner.processor:
        return
    probed = _with_engine(plugin, engine)
    for kinds in _PROBES:
        if all(kind in engine.runner.placeholders for kind in kinds):
            _check_probe(probed, kinds)


def _with_engine(plugin: BasePlugin, engine: Engine) -> BasePlugin:
    """A copy of the plugin that computes with an engine, so that making the probes checks nothing again."""
    copy = dataclasses.replace(plugin, processor=engine.runner.processor, options=engine.options)
    copy.__dict__["engine"] = engine
    try:
        _ = engine.template
    except TemplateError:
        copy = dataclasses.replace(copy, chat_template=_PLAIN_TEMPLATE)
        copy.__dict__["engine"] = type(engine)(copy, engine.runner.processor, engine.options)
    return copy


def _check_probe(plugin: BasePlugin, kinds: Sequence[Modality]) -> None:
    try:
        media = [_KINDS[kind].blank(plugin.engine) for kind in kinds]
        row = _mapped(plugin, kinds, media)
    except MMDatasetsError:
        return
    theirs = _own_call(plugin, kinds, media)
    if theirs is None or "input_ids" not in theirs:
        return
    found = _describe_ids(row["input_ids"], _first_row(theirs["input_ids"]), plugin.engine.tokenizer)
    if len(kinds) < 2:
        found = found or _describe_inputs(plugin, row, theirs)
    if found:
        probe = f"a chat with {len(kinds)} {kinds[0]}(s)" if kinds else "a chat without media"
        name = type(plugin.engine.runner.processor).__name__
        raise ProcessorMismatchError(
            f"{name} does more in its call than its hooks tell: of {probe}, {found}. What the generic plugin makes of "
            "this processor's data would not be what its model expects. Write a plugin for it, as "
            "docs/adding_a_family.md shows"
        )


def _chat(kinds: Sequence[Modality]) -> list[Message]:
    media = [{"type": kind} for kind in kinds]
    return [
        {"role": "user", "content": [*media, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A shape."}]},
    ]


def _mapped(plugin: BasePlugin, kinds: Sequence[Modality], media: Sequence[object]) -> dict[str, list[int]]:
    """The probe as the plugin's transform makes it, in a batch of one row."""
    columns: dict[str, list[object]] = {plugin.messages_column: [_chat(kinds)]}
    for kind in dict.fromkeys(kinds):
        column = getattr(plugin, _KINDS[kind].column)
        columns[column] = [[item for item, own in zip(media, kinds, strict=True) if own == kind]]
    made = plugin.transform(columns)
    return {name: column[0] for name, column in made.items()}  # type: ignore[misc]


def _own_call(plugin: BasePlugin, kinds: Sequence[Modality], media: Sequence[object]) -> Mapping[str, object] | None:
    """What the processor's own call makes of the probe, `None` where it refuses it."""
    engine = plugin.engine
    decoded = [_KINDS[kind].decoded(engine, item) for kind, item in zip(kinds, media, strict=True)]
    calls = (_call_on_parts, _call_on_text) if _renders_parts(engine) else (_call_on_text,)
    for call in calls:
        # Without pixels first, which is quick; some processors need them.
        for items in ([_without_data(item) for item in decoded], decoded):
            try:
                return call(engine, kinds, items)
            except Exception:  # processors raise what their code raises
                continue
    return None


def _renders_parts(engine: Engine) -> bool:
    """Whether the template writes typed parts as it writes strings; older ones only take strings."""
    try:
        parts, strings = (engine.template.render(chat).text for chat in (_chat(()), _as_strings(engine, ())))
    except TemplateError:
        return False
    return parts == strings


def _as_strings(engine: Engine, kinds: Sequence[Modality]) -> list[Message]:
    return [as_string(message, engine.runner.placeholders.get("image", "")) for message in _chat(kinds)]


def _without_data(item: object) -> object:
    return item.to("meta") if isinstance(item, torch.Tensor) else item


def _call_on_parts(engine: Engine, kinds: Sequence[Modality], items: Sequence[object]) -> Mapping[str, object]:
    chat = _chat(kinds)
    for part, kind, item in zip(chat[0]["content"], kinds, items, strict=False):  # type: ignore[call-overload]
        part[kind] = item
    return engine.runner.processor.apply_chat_template(  # type: ignore[no-any-return]
        [chat], chat_template=engine.template.source, tokenize=True, return_dict=True, return_tensors="pt"
    )


def _call_on_text(engine: Engine, kinds: Sequence[Modality], items: Sequence[object]) -> Mapping[str, object]:
    text = engine.template.render(_as_strings(engine, kinds)).text
    given = {_KINDS[kind].argument: [list(items)] for kind in kinds}
    special = engine.adds_special_tokens(text)
    return engine.runner.processor(  # type: ignore[no-any-return]
        text=[text], add_special_tokens=special, return_tensors="pt", **given
    )


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
