"""Chats with videos and audio for the families whose processor is code of its checkpoint, and what to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import soundfile
import torch

from mmdatasets.media.video import decode_frames
from mmdatasets.options import MediaOptions
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, read_frame_number, write_video
from mmdatasets.types import FramePlan, Modality
from tests.oracle import Message

COLUMNS: Mapping[Modality, str] = {"image": "images", "video": "videos", "audio": "audios"}
SUFFIXES: Mapping[Modality, str] = {"image": ".png", "video": ".mp4", "audio": ".wav"}
OPTIONS = MediaOptions()
RATE = 16000


@dataclass(frozen=True)
class Image:
    """An image of a size."""

    width: int
    height: int
    modality: Modality = "image"


@dataclass(frozen=True)
class Video:
    """A video of a size, a length and a rate."""

    num_frames: int
    width: int = 112
    height: int = 64
    rate: int = 4
    modality: Modality = "video"


@dataclass(frozen=True)
class Audio:
    """A sound of a length."""

    duration_s: float
    modality: Modality = "audio"


Item = Image | Video | Audio
Turn = Sequence[str | Item]


@dataclass(frozen=True)
class Row:
    """A chat whose media are files, in the order of the text."""

    messages: list[Message]
    items: list[Item]
    paths: list[Path]

    def of(self, modality: Modality) -> list[str]:
        """The files of a modality."""
        return [str(path) for item, path in zip(self.items, self.paths, strict=True) if item.modality == modality]


def write_item(item: Item, folder: Path) -> Path:
    """Writes an item's file, unless it is there."""
    stem = "-".join(str(value) for value in vars(item).values())
    path = folder / f"{stem}{SUFFIXES[item.modality]}"
    if path.exists():
        return path
    if isinstance(item, Image):
        return write_image(path, item.width, item.height)
    if isinstance(item, Audio):
        return write_audio(path, RATE, item.duration_s)
    return write_video(
        path, VideoSpec(num_frames=item.num_frames, width=item.width, height=item.height, rate=Fraction(item.rate))
    )


def make_row(turns: Sequence[Turn], folder: Path) -> Row:
    """Makes a chat of turns of the user and the assistant by turns."""
    messages, items, paths = [], [], []
    for index, turn in enumerate(turns):
        text = "".join(part if isinstance(part, str) else f"<{part.modality}>" for part in turn)
        messages.append({"role": "assistant" if index % 2 else "user", "content": text})
        items += [part for part in turn if not isinstance(part, str)]
    paths = [write_item(item, folder) for item in items]
    return Row(messages, items, paths)


def map_rows(plugin: BasePlugin, rows: Sequence[Row]) -> datasets.Dataset:
    """The rows, mapped by the plugin."""
    columns: dict[str, Any] = {"messages": [row.messages for row in rows]}
    types: dict[str, Any] = {"messages": datasets.Json()}
    for modality in plugin.modalities:
        columns[COLUMNS[modality]] = [row.of(modality) for row in rows]
        types[COLUMNS[modality]] = datasets.List(datasets.Value("string"))
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))


def open_items(
    row: Row, sampled: Callable[[Video], Sequence[int]]
) -> list[tuple[Item, PIL.Image.Image | torch.Tensor | np.ndarray]]:
    """A row's items, in the order of the text, each with its pixels or samples.

    Args:
        row: The row.
        sampled: Which frames of a video are wanted.
    """
    opened: list[tuple[Item, PIL.Image.Image | torch.Tensor | np.ndarray]] = []
    for item, path in zip(row.items, row.paths, strict=True):
        if isinstance(item, Image):
            opened.append((item, PIL.Image.open(path).convert("RGB")))
        elif isinstance(item, Audio):
            opened.append((item, soundfile.read(path, dtype="float32")[0]))
        else:
            indices = tuple(sampled(item))
            frames = decode_frames(str(path), FramePlan(indices), OPTIONS)
            assert [read_frame_number(frame.permute(1, 2, 0).numpy()) for frame in frames] == list(indices)
            opened.append((item, frames))
    return opened


def assert_same(ours: object, theirs: object, name: str) -> None:
    """Equal in structure, types, shapes and values."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), name
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert torch.equal(ours, theirs), name
    elif isinstance(theirs, list):
        assert isinstance(ours, list), name
        assert len(ours) == len(theirs), name
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other, name)
    else:
        assert ours == theirs, name
