"""The oracle: what transformers' own processor makes of the same conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin

Message = dict[str, Any]


def part(kind: str, **values: object) -> Message:
    return {"type": kind, **values}


def oracle_messages(messages: Sequence[Message], images: Sequence[str | Path]) -> list[Message]:
    """The same chat in the processor's own form: typed parts with the image paths inside."""
    supply = iter(images)
    result = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str) and "<image>" in content:
            pieces: list[Message] = []
            for index, text in enumerate(content.split("<image>")):
                if index:
                    pieces.append(part("image", image=str(next(supply))))
                if text:
                    pieces.append(part("text", text=text))
            content = pieces
        elif isinstance(content, list):
            content = [part("image", image=str(next(supply))) if p["type"] == "image" else p for p in content]
        result.append({**message, "content": content})
    return result


def processor_batch(
    processor: ProcessorMixin,
    conversations: Sequence[Sequence[Message]],
    images: Sequence[Sequence[str | Path]],
    *,
    images_kwargs: Mapping[str, object] | None = None,
    **kwargs: object,
) -> BatchFeature:
    """`apply_chat_template` of the processor itself, padded, as tensors."""
    return processor.apply_chat_template(
        [oracle_messages(chat, paths) for chat, paths in zip(conversations, images, strict=True)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **({"images_kwargs": dict(images_kwargs)} if images_kwargs else {})},
        **kwargs,
    )


def assert_same_tensors(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], ignore: Sequence[str] = ("labels",)
) -> None:
    assert set(ours) - set(ignore) == set(theirs) - set(ignore)
    for name in set(theirs) - set(ignore):
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == theirs[name].shape, name
        assert np.array_equal(ours[name].numpy(), theirs[name].numpy()), name
