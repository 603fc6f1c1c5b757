"""A processor's call on texts, with videos and audio that were decoded before, and the same item by item.

Processors would decode files themselves, each with a decoder of its own. So they get the frames and samples that the
plain decoders of `mmdatasets.testing.specs` find, and are told where these come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets.testing.inputs import Inputs
from mmdatasets.testing.scenarios import Chat, media_in
from mmdatasets.testing.specs import AudioSpec, ClipSpec
from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from transformers.video_utils import VideoMetadata

    from mmdatasets.testing.oracles import Arguments, Side

_GROUPS: Mapping[Modality, str] = {"image": "images_kwargs", "video": "videos_kwargs", "audio": "audio_kwargs"}
_ARGUMENTS: Mapping[Modality, str] = {"image": "images", "video": "videos", "audio": "audio"}


@dataclass(frozen=True)
class Loaded:
    """A media item as processors take it.

    Attributes:
        modality: What it is.
        data: The image, frames or samples.
        metadata: What processors are told of a video.
    """

    modality: Modality
    data: object
    metadata: VideoMetadata | None = None


def load(processor: ProcessorMixin, kind: str, reference: object) -> Loaded:
    """Decodes the reference of a media item. That of a video may have a `size`, width and height of its frames."""
    if kind == "image":
        fetched = processor.image_processor.fetch_images(reference) if isinstance(reference, str) else reference
        return Loaded("image", fetched)
    if kind == "video":
        file, indices = str(reference["path"]), tuple(reference["indices"])  # type: ignore[index]
        frames = ClipSpec(1, 1, indices).decode(file)
        if size := reference.get("size"):  # type: ignore[attr-defined]
            width, height = size
            frames = tv.resize(frames, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
        clip = ClipSpec(frames.shape[3], frames.shape[2], indices)
        return Loaded("video", frames, clip.metadata())
    return Loaded("audio", AudioSpec(0).decode(str(reference), sampling_rate_of(processor)))


def sampling_rate_of(processor: ProcessorMixin) -> int:
    """Samples per second that a processor's feature extractor takes."""
    rate: int = processor._audio_processor.sampling_rate
    return rate


def call_on_texts(
    processor: ProcessorMixin,
    texts: Sequence[str],
    chats: Sequence[Chat],
    padding_side: Side | None = None,
    arguments: Arguments | None = None,
) -> Inputs:
    """The processor's call.

    Args:
        processor: The processor.
        texts: The rendered conversations.
        chats: The conversations, whose media goes with the texts.
        padding_side: Where to pad; where the processor does it when `None`.
        arguments: Further keyword arguments.
    """
    rows = [[load(processor, kind, reference) for kind, reference in media_in(chat)] for chat in chats]
    given: dict[str, object] = {"text_kwargs": _text_settings(processor, texts, padding_side)}
    for modality in MODALITIES:
        own = [[item.data for item in row if item.modality == modality] for row in rows]
        if any(own):
            given[_ARGUMENTS[modality]] = own if modality == "image" else [item for row in own for item in row]
            given[_GROUPS[modality]] = _settings(processor, modality, rows, arguments)
    made: Inputs = processor(text=list(texts), return_tensors="pt", **given)
    return {name: value for name, value in made.items() if name != "video_metadata"}


def _text_settings(processor: ProcessorMixin, texts: Sequence[str], side: Side | None) -> dict[str, object]:
    # As `apply_chat_template` sets it, which has the template write bos.
    bos = processor.tokenizer.bos_token
    settings: dict[str, object] = {"padding": True, **({"padding_side": side} if side else {})}
    return settings | ({"add_special_tokens": False} if bos is not None and texts[0].startswith(bos) else {})


def _settings(
    processor: ProcessorMixin, modality: Modality, rows: Sequence[Sequence[Loaded]], arguments: Arguments | None
) -> dict[str, object]:
    given = dict((arguments or {}).get(modality, {}))
    if modality == "video":
        metadata = [item.metadata for row in rows for item in row if item.metadata is not None]
        return {**given, "video_metadata": metadata, "do_sample_frames": False, "return_metadata": True}
    return {**given, "sampling_rate": sampling_rate_of(processor)} if modality == "audio" else given


def call_item_by_item(processor: ProcessorMixin, text: str, chat: Chat) -> Inputs:
    """What the processor makes of a row's items one by one, put together: it refuses them in one call.

    The text is put together by the processor's own `get_text_with_replacements`. Frames of videos of different lengths
    stand in one tensor `(1, num_frames, ...)`; where images and videos share `pixel_values`, they do so in the order
    of the text.
    """
    parts: list[dict[str, torch.Tensor]] = []
    texts: dict[Modality, list[str]] = {modality: [] for modality in MODALITIES}
    for kind, reference in media_in(chat):
        item = load(processor, kind, reference)
        placeholder = getattr(processor, f"{item.modality}_token")
        one: Chat = [{"role": "user", "content": [{"type": kind, kind: reference}]}]
        made = call_on_texts(processor, [placeholder], [one])
        parts.append({name: torch.as_tensor(value) for name, value in made.items()})
        texts[item.modality].append(_replacement(processor, item))
    row, _ = processor.get_text_with_replacements([text], texts["image"], texts["video"], texts["audio"])
    encoded = processor.tokenizer(row, return_tensors="pt", **_text_settings(processor, [text], None))
    ids = encoded["input_ids"]
    joined = {name: _joined(parts, name) for part in parts for name in part if name not in _OF_TEXT}
    types = {"mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids.tolist()))}
    has_types = any("mm_token_type_ids" in part for part in parts)
    return {"input_ids": ids, "attention_mask": encoded["attention_mask"], **joined, **(types if has_types else {})}


_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def _replacement(processor: ProcessorMixin, item: Loaded) -> str:
    merged = processor._merge_kwargs(
        processor.valid_processor_kwargs,
        tokenizer_init_kwargs=processor.tokenizer.init_kwargs,
        common_kwargs={"return_tensors": "pt"},
        **{_GROUPS[item.modality]: _settings(processor, item.modality, [[item]], None)},
    )
    process = {"image": "_process_images", "video": "_process_videos", "audio": "_process_audio"}[item.modality]
    data = [[item.data]] if item.modality == "image" else [item.data]
    texts: list[str] = getattr(processor, process)(data, **merged[_GROUPS[item.modality]])[1]
    return texts[0]


def _joined(parts: Sequence[Mapping[str, torch.Tensor]], name: str) -> torch.Tensor:
    tensors = [part[name] for part in parts if name in part]
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        return torch.cat([tensor.flatten(0, 1)[None] for tensor in tensors], dim=1)
    return torch.cat(tensors)
