"""A row's media to look at: thumbnails, some frames of videos, waveforms, and what the processor makes of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from mmdatasets.errors import MediaError, MediaNotFoundError, MMDatasetsError
from mmdatasets.features import MEDIA_COLUMNS, MEDIA_INFO, VIDEO_FRAMES, plan_of
from mmdatasets.media.clip import split_clip
from mmdatasets.media.picture_store import read_pictures
from mmdatasets.media.source import describe_source
from mmdatasets.media.video import describe_video
from mmdatasets.options import PixelBudget
from mmdatasets.preview.facts import Frame, Layout, Media, Wave
from mmdatasets.preview.layout import find_layout
from mmdatasets.preview.pictures import envelope, to_data_uri
from mmdatasets.transforms.batches import as_references, stored_items
from mmdatasets.types import FramePlan, MediaItem

if TYPE_CHECKING:
    from mmdatasets.features import MediaRecord
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import MediaPlan, MediaReference, MediaShape, Modality

PICTURE_CHARS = 150_000
"""Characters that all pictures of a preview take at most, however many there are."""
WAVE_STEPS = 1600
"""Steps that all waveforms of a preview take."""
FRAMES = 8
"""Frames of a video that are shown at most."""
_MOST_FRAMES = 32  # of all videos
_MOST_IMAGES = 40
_WAVE = 400
_LONGEST_SOURCE = 80


class MediaViewer:
    """Makes rows' media into something to look at.

    Args:
        plugin: The family's rules.
        num_items: How many items of each modality the preview has, which share its size.
        decode: Whether media is decoded. Without, it is only described.
    """

    def __init__(self, plugin: BasePlugin, num_items: Mapping[Modality, int], *, decode: bool = True) -> None:
        self._plugin, self._engine, self._decode = plugin, plugin.engine, decode
        videos, images, heard = num_items.get("video", 0), num_items.get("image", 0), num_items.get("audio", 0)
        self._frames = max(1, min(FRAMES, _MOST_FRAMES // max(1, videos)))
        pictures = min(images, _MOST_IMAGES) + min(videos * self._frames, _MOST_FRAMES)
        self._chars = PICTURE_CHARS // max(1, pictures)
        self._left = {"image": _MOST_IMAGES, "video": _MOST_FRAMES}
        self._steps = max(40, min(_WAVE, WAVE_STEPS // max(1, heard + videos)))
        self._layout = lru_cache(maxsize=256)(self._find_layout)

    def view(self, row: Mapping[str, object]) -> list[Media]:
        """The media of a mapped row, in the order of its text. What cannot be read says why."""
        records = cast("Sequence[MediaRecord]", row.get(MEDIA_INFO) or ())
        seen: Counter[str] = Counter()
        views = []
        for record in records:
            seen[record["modality"]] += 1
            views.append(self._view_one(row, record, seen[record["modality"]]))
        return views

    def _view_one(self, row: Mapping[str, object], record: MediaRecord, number: int) -> Media:
        plan = plan_of(record)
        view = Media(
            plan.modality,
            number,
            source="",
            num_tokens=int(record["num_tokens"]),
            width=plan.width,
            height=plan.height,
            num_frames=None if plan.frames is None else len(plan.frames.indices),
            num_source_frames=plan.num_source_frames,
            fps=plan.fps,
            duration_s=plan.duration_s,
        )
        try:
            item = MediaItem(plan.modality, _reference(row, plan.modality, int(record["item"])))
            view = replace(view, source=_source(item))
            engine = self._engine.at_budget(_budget(record))
            if plan.modality != "audio":
                view = replace(view, layout=self._layout(engine, engine.media.shape(plan)))
            return self._shown(view, engine, item, plan) if self._decode else view
        except MMDatasetsError as error:
            return replace(view, error=error.message)
        # Whatever a decoder raises is said in the place of what it did not decode.
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            return replace(view, error=f"{type(error).__name__}: {error}")

    def _find_layout(self, engine: Engine, shape: MediaShape) -> Layout:
        return find_layout(self._plugin, engine, shape)

    def _shown(self, view: Media, engine: Engine, item: MediaItem, plan: MediaPlan) -> Media:
        if plan.modality == "audio":
            samples = cast("np.ndarray", engine.media.load([item], [plan])[0].data)
            wave = self._wave(samples, plan)
            return replace(view, wave=wave, duration_s=wave.duration_s)
        if plan.modality == "image":
            if not self._left["image"]:
                return view
            self._left["image"] -= 1
            return replace(view, picture=self._picture(_image(engine, item, plan), view.layout))
        view = replace(view, frames=self._video_frames(view, engine, item, plan))
        if plan.num_samples is None or plan.materialised:
            return view
        sound = MediaItem("audio", cast("MediaReference", split_clip(item.reference).reference))
        heard = replace(plan, modality="audio", frames=None, width=None, height=None)
        samples = cast("np.ndarray", engine.media.load([sound], [heard])[0].data)
        return replace(view, wave=self._wave(samples, plan))

    def _video_frames(self, view: Media, engine: Engine, item: MediaItem, plan: MediaPlan) -> tuple[Frame, ...]:
        frames = plan.frames
        if frames is None or not self._left["video"]:
            return ()
        count = min(self._frames, len(frames.indices), self._left["video"])
        chosen = sorted({round(place) for place in np.linspace(0, len(frames.indices) - 1, count)})
        self._left["video"] -= len(chosen)
        times = frames.timestamps_s
        some = FramePlan(
            tuple(frames.indices[place] for place in chosen),
            None if times is None else tuple(times[place] for place in chosen),
        )
        pixels = _frames(engine, item, replace(plan, frames=some, num_samples=None), chosen)
        return tuple(
            Frame(index, None if some.timestamps_s is None else some.timestamps_s[at], self._picture(one, view.layout))
            for at, (index, one) in enumerate(zip(some.indices, pixels, strict=True))
        )

    def _picture(self, pixels: torch.Tensor, layout: Layout) -> str:
        return to_data_uri(pixels, layout.width, layout.height, self._chars)

    def _wave(self, samples: np.ndarray, plan: MediaPlan) -> Wave:
        rate = self._engine.runner.sampling_rate
        steps = min(self._steps, len(samples))
        return Wave(envelope(samples, steps), steps, len(samples) / rate, plan.start_s or 0.0, rate)


def count_items(rows: Sequence[Mapping[str, object]]) -> Counter[Modality]:
    """How many items of each modality rows have."""
    return Counter(
        record["modality"]  # type: ignore[misc]
        for row in rows
        for record in cast("Sequence[MediaRecord]", row.get(MEDIA_INFO) or ())
    )


def _reference(row: Mapping[str, object], modality: Modality, item: int) -> MediaReference:
    """Where an item is.

    Raises:
        MediaError: If the row does not say it.
    """
    column = MEDIA_COLUMNS[modality]
    # The one item alone: another one that cannot be used is none of its business.
    one: dict[str, object] = {}
    for name in (column, VIDEO_FRAMES) if modality == "video" else (column,):
        values = as_references(row.get(name))
        one[name] = values[item : item + 1]
    found = stored_items(one)[modality]
    if not found:
        raise MediaNotFoundError(f"the row has no such item: its column {column!r} is missing or shorter")
    return found[0]


def _budget(record: MediaRecord) -> PixelBudget | None:
    bound = record.get("max_pixels")
    if bound is None or record["modality"] == "audio":
        return None
    return PixelBudget(**{f"{record['modality']}_max_pixels": int(bound)})


def _source(item: MediaItem) -> str:
    text = describe_video(item.reference) if item.modality == "video" else describe_source(item.reference)
    folder, _, name = text.rpartition("/")
    if folder.startswith(("/", ".")) or "://" in folder:
        # The end of a path tells one file from another; its beginning is the same for all.
        text = f".../{folder.rpartition('/')[2]}/{name}" if "/" in folder.strip("/") else text
    return text if len(text) <= _LONGEST_SOURCE else f"...{text[-_LONGEST_SOURCE:]}"


def _image(engine: Engine, item: MediaItem, plan: MediaPlan) -> torch.Tensor:
    if plan.materialised:
        return _largest(read_pictures(item.reference, engine.options))
    return cast("torch.Tensor", engine.media.load([item], [plan])[0].data)


def _frames(engine: Engine, item: MediaItem, plan: MediaPlan, chosen: Sequence[int]) -> Sequence[torch.Tensor]:
    if not plan.materialised:
        return list(cast("torch.Tensor", engine.media.load([item], [plan])[0].data))
    references = item.reference["frames"] if isinstance(item.reference, Mapping) else item.reference
    if not isinstance(references, Sequence):
        raise MediaError("the frames of a video that was materialised are missing")
    return [_largest(read_pictures(references[place], engine.options)) for place in chosen]


def _largest(pictures: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return max(pictures.values(), key=torch.Tensor.numel)
