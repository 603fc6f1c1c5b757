"""A processor's own call on a small chat, in whichever of the forms that processors differ in it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.chat.formats import Message, as_string
from mmdatasets.errors import TemplateError
from mmdatasets.planning.image_forms import IMAGE_FORMS, ImageForm, one_list_a_row
from mmdatasets.planning.inputs import video_metadata
from mmdatasets.types import MediaInput, Modality, VideoShape

if TYPE_CHECKING:
    from mmdatasets.transforms.engine import Engine

_ARGUMENTS: Mapping[Modality, str] = {"image": "images", "video": "videos", "audio": "audio"}
_Call: TypeAlias = "Callable[[Engine, Sequence[Modality], Sequence[MediaInput], ImageForm], Mapping[str, object]]"


def probe_chat(kinds: Sequence[Modality]) -> list[Message]:
    """One question with an item of each of these modalities, and its answer."""
    media = [{"type": kind} for kind in kinds]
    return [
        {"role": "user", "content": [*media, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A shape."}]},
    ]


def call_processor(engine: Engine, kinds: Sequence[Modality], media: Sequence[MediaInput]) -> Mapping[str, object]:
    """What the processor's own call makes of the probe with these items.

    Raises:
        Exception: What the processor raises, where it refuses it in every form.
    """
    calls: tuple[_Call, ...] = (_call_on_text,)
    if _renders_parts(engine):
        calls = (_call_on_parts, _call_on_text) if set(kinds) <= {"image"} else (_call_on_rendered, _call_on_text)
    attempts = [(media, form) for form in (IMAGE_FORMS if "image" in kinds else (one_list_a_row,))]
    if "image" in kinds:  # without pixels first, which is quick; some processors need them
        attempts.insert(0, ([_without_data(item) for item in media], one_list_a_row))
    refusals: list[Exception] = []
    for call, (items, form) in product(calls, attempts):
        try:
            return call(engine, kinds, items, form)
        except Exception as error:  # processors raise what their code raises
            if items is media:
                refusals.append(error)
    raise refusals[0]


def _renders_parts(engine: Engine) -> bool:
    """Whether the template writes typed parts as it writes strings; older ones only take strings."""
    try:
        parts, strings = (engine.template.render(chat).text for chat in (probe_chat(()), _as_strings(engine, ())))
    except TemplateError:
        return False
    return parts == strings


def _as_strings(engine: Engine, kinds: Sequence[Modality]) -> list[Message]:
    return [as_string(message, engine.runner.placeholders) for message in probe_chat(kinds)]


def _without_data(item: MediaInput) -> MediaInput:
    return replace(item, data=item.data.to("meta")) if item.modality == "image" else item  # type: ignore[union-attr]


def _call_on_parts(
    engine: Engine, kinds: Sequence[Modality], items: Sequence[MediaInput], form: ImageForm
) -> Mapping[str, object]:
    chat = probe_chat(kinds)
    images = chain(*(form([[item.data]]) for item in items))  # type: ignore[list-item]
    for part, kind, image in zip(chat[0]["content"], kinds, images, strict=False):  # type: ignore[call-overload]
        part[kind] = image[0] if isinstance(image, list) else image
    return engine.runner.processor.apply_chat_template(  # type: ignore[no-any-return]
        [chat], chat_template=engine.template.source, tokenize=True, return_dict=True, return_tensors="pt"
    )


def _call_on_rendered(
    engine: Engine, kinds: Sequence[Modality], items: Sequence[MediaInput], form: ImageForm
) -> Mapping[str, object]:
    return _call(engine, engine.template.render(probe_chat(kinds)).text, items, form)


def _call_on_text(
    engine: Engine, kinds: Sequence[Modality], items: Sequence[MediaInput], form: ImageForm
) -> Mapping[str, object]:
    return _call(engine, engine.template.render(_as_strings(engine, kinds)).text, items, form)


def _call(engine: Engine, text: str, items: Sequence[MediaInput], form: ImageForm) -> Mapping[str, object]:
    given: dict[str, object] = {}
    for kind, argument in _ARGUMENTS.items():
        own = [item.data for item in items if item.modality == kind]
        if own:
            given[argument] = form([own]) if kind == "image" else own  # type: ignore[list-item]
    videos = [video_metadata(item.shape) for item in items if isinstance(item.shape, VideoShape)]
    if videos:
        given["videos_kwargs"] = {"video_metadata": videos, "do_sample_frames": False, "return_metadata": True}
    if "audio" in given:
        given["audio_kwargs"] = {"sampling_rate": engine.runner.sampling_rate}
    special = engine.adds_special_tokens(text)
    made = engine.runner.processor(text=[text], add_special_tokens=special, return_tensors="pt", **given)
    return {name: value for name, value in made.items() if name != "video_metadata"}
