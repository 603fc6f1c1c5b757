"""A row's media: what headers say of it, what it becomes, and, when a batch is made, its pixels and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from transformers.video_utils import VideoMetadata

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError, MediaProcessorError
from mmdatasets.media.audio import decode_audio
from mmdatasets.media.audio_plan import fit_num_samples, plan_audio_chunks, planned_num_samples
from mmdatasets.media.clip import VideoClip, split_clip
from mmdatasets.media.image import decode_image
from mmdatasets.media.limits import check_video_pixels
from mmdatasets.media.prober import MediaProber
from mmdatasets.media.resize import resize
from mmdatasets.media.source import describe_source
from mmdatasets.media.video import decode_frames
from mmdatasets.planning.cut_audio import CutAudio
from mmdatasets.planning.inputs import describe_shape, image_input
from mmdatasets.planning.sampling import Clip, check_indices, planned_video, sample
from mmdatasets.planning.sizes import fit_pixels
from mmdatasets.planning.sound import sound_range
from mmdatasets.transforms.stored import item_key, load_stored
from mmdatasets.types import (
    AudioInfo,
    AudioShape,
    Expansion,
    ImageInfo,
    MediaInput,
    MediaItem,
    MediaPlan,
    MediaShape,
    VideoInfo,
    VideoShape,
    modality_of,
)

if TYPE_CHECKING:
    from mmdatasets.media.cache import MetadataCache
    from mmdatasets.options import MediaOptions
    from mmdatasets.planning.dry_run import ProcessorRunner
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import MediaReference, Modality

_CACHE_SIZE = 65_536


class MediaReader:
    """Plans and reads media for one processor under a plugin's settings.

    Args:
        plugin: Gives the family's rules and the names of the columns.
        runner: The processor.
        options: How media is read and sized.
        cache: What is known of media already.
    """

    def __init__(
        self,
        plugin: BasePlugin,
        runner: ProcessorRunner,
        options: MediaOptions,
        cache: MetadataCache | None = None,
    ) -> None:
        self._plugin = plugin
        self._runner = runner
        self._options = options
        self._prober = MediaProber(options, cache)
        self._refused: dict[Modality, str] = {}
        self._expand_item = lru_cache(maxsize=_CACHE_SIZE)(self._ask_item)
        self._expand_row = lru_cache(maxsize=_CACHE_SIZE)(self._ask_row)

    @property
    def refused(self) -> Mapping[Modality, str]:
        """The modalities of which every item is refused, and why."""
        return self._refused

    @cached_property
    def _cut_audio(self) -> CutAudio:
        return CutAudio(lambda count: self.expand_one(AudioShape(count)).num_media_tokens, self._runner.sampling_rate)

    def refuse(self, modality: Modality, reason: str) -> None:
        """Has every item of a modality refused from now on."""
        self._refused[modality] = reason

    # ------------------------------------------------------------------------------------------------ from headers

    def plan(self, items: Sequence[MediaItem]) -> list[list[MediaPlan]]:
        """Reads the headers of a row's media.

        Args:
            items: The items, in the order of the text.

        Returns:
            What is planned of each item: one plan, or several for audio that is divided into chunks.

        Raises:
            MediaError: If one cannot be used. Names column, index and source.
        """
        return self._each(items, lambda position: self._plan_one(items[position]))

    def keep_found(self) -> None:
        """Has the metadata cache, if there is one, write what headers were read since the last time."""
        self._prober.flush()

    def _each(self, items: Sequence[MediaItem], work: Callable[[int], list[MediaPlan]]) -> list[list[MediaPlan]]:
        results = []
        seen: Counter[Modality] = Counter()
        for position, item in enumerate(items):
            try:
                results.append(work(position))
            except MediaError as error:
                raise self._located(error, item, seen[item.modality]) from error.__cause__
            seen[item.modality] += 1
        return results

    def _located(self, error: MediaError, item: MediaItem, index: int) -> MediaError:
        column = self._plugin.media_columns[item.modality]
        return error.at(column=column, index=index, source=describe_source(item.reference))

    def _plan_one(self, item: MediaItem) -> list[MediaPlan]:
        if item.modality not in self._runner.placeholders:
            kind = type(self._runner.processor).__name__
            raise MediaError(f"{kind} takes no {item.modality}, but the row has one")
        if item.modality in self._refused:
            raise MediaProcessorError(self._refused[item.modality])
        if item.modality == "image":
            info = self._prober.image(item.reference)
            return [MediaPlan("image", info.width, info.height)]
        return [self._plan_video(item.reference)] if item.modality == "video" else self._plan_audio(item.reference)

    def _plan_video(self, reference: MediaReference) -> MediaPlan:
        planned = planned_video(reference)
        if planned is not None:
            return planned
        clip = split_clip(reference)
        info = self._prober.video(reference)
        indices = check_indices(reference.get("indices")) if isinstance(reference, Mapping) else None
        part = Clip(clip.start_s, clip.end_s, indices)
        sampled = sample(info, part, self._options, self._sample_by_processor)
        check_video_pixels(
            len(sampled.frames.indices), info.width, info.height, self._options, describe_source(reference)
        )
        start_s, end_s, num_samples = None, None, None
        if self._options.use_audio_in_video and info.has_audio:
            start_s, end_s, num_samples = self._plan_sound(clip, info)
        return MediaPlan(
            "video",
            info.width,
            info.height,
            sampled.frames,
            sampled.num_source_frames,
            info.fps,
            sampled.duration_s,
            start_s,
            end_s,
            num_samples,
        )

    def _sample_by_processor(
        self, count: int, fps: float | None, duration: float | None, wanted: dict[str, object]
    ) -> Sequence[int] | None:
        metadata = VideoMetadata(total_num_frames=count, fps=fps, duration=duration)
        return self._plugin.sample_frames(self._runner, metadata, wanted)

    def _plan_sound(self, clip: VideoClip, video: VideoInfo) -> tuple[float | None, float | None, int | None]:
        """Where the sound of a video begins and ends, and how many samples that is; nothing where there is none.

        A whole video has its whole sound, from the first sample on, as processors take it. The sound of a part is what
        is to be heard while that is shown, wherever the sound track begins.

        Args:
            clip: The part.
            video: What is known of the whole video.
        """
        info = self._prober.audio(clip.reference)
        start, end = sound_range(clip, info.starts_at_s - video.starts_at_s)
        sample_s = 1 / info.sampling_rate
        if start > info.duration_s - sample_s or (end is not None and end < sample_s):
            return None, None, None  # nothing is to be heard in the wanted part
        end = None if end is None else min(end, info.duration_s)
        length, limit = (info.duration_s if end is None else end) - start, self._longest_s()
        if limit is not None and length > limit:
            if self._options.long_audio != "truncate":
                raise _too_long(length, limit, "or use_audio_in_video=False: a video's sound is not divided")
            end = start + limit
        return start, end, self._num_samples(info, start, end)

    def _num_samples(self, info: AudioInfo, start_s: float, end_s: float | None) -> int:
        rate = self._runner.sampling_rate
        count = planned_num_samples(info, self._options, rate, start_s=start_s, end_s=end_s)
        if self._runner.max_samples is None and "audio" in self._runner.placeholders:
            self._cut_audio.check(count)
        return count

    def _plan_audio(self, reference: MediaReference) -> list[MediaPlan]:
        info, limit = self._prober.audio(reference), self._longest_s()
        if limit is None or info.duration_s <= limit:
            num_samples = self._num_samples(info, 0.0, None)
            return [MediaPlan("audio", start_s=0.0, num_samples=num_samples)]
        if self._options.long_audio == "error":
            raise _too_long(info.duration_s, limit, "or long_audio='chunk' to make several items of it")
        return [
            MediaPlan("audio", start_s=start, end_s=end, num_samples=self._num_samples(info, start, end))
            for start, end in plan_audio_chunks(info, limit, self._options.long_audio)
        ]

    def _longest_s(self) -> float | None:
        """Seconds of the longest audio that is taken in one piece."""
        own, wanted = self._plugin.max_samples(self._runner), self._options.audio_max_duration_s
        limits = [None if own is None else own / self._runner.sampling_rate, wanted]
        return min((limit for limit in limits if limit is not None), default=None)

    # ------------------------------------------------------------------------------------------- what it becomes

    def shape(self, plan: MediaPlan) -> MediaShape:
        """The shape in which the processor gets an item: sized before it, where it has no size arguments itself."""
        if plan.modality == "audio":
            return AudioShape(plan.num_samples or 0)
        if plan.width is None or plan.height is None:
            raise MediaError(f"the plan of a {plan.modality} has no size: map the dataset again")
        options, size = self._options, ImageInfo(plan.width, plan.height)
        if plan.modality == "image":
            if self._runner.sizes("image"):
                return size
            return fit_pixels(size, options.image_min_pixels, options.image_max_pixels)
        if not self._runner.sizes("video"):
            multiple = self._plugin.frame_multiple(self._runner.processor)
            size = fit_pixels(size, options.video_min_pixels, options.video_max_pixels, multiple)
        if plan.frames is None or plan.num_source_frames is None:
            raise MediaError("the plan of a video has no frames: map the dataset again")
        return VideoShape(
            size.width,
            size.height,
            plan.frames,
            plan.num_source_frames,
            plan.fps,
            plan.duration_s,
            plan.num_samples,
        )

    def expand(self, items: Sequence[MediaItem], plans: Sequence[MediaPlan]) -> list[Expansion]:
        """What a row's planned items become in the text.

        Args:
            items: The item of each plan.
            plans: The plans, in the order of the text.

        Raises:
            MediaError: If the processor refuses one. Names column, index and source.
        """
        shapes = [self.shape(plan) for plan in plans]
        if len(shapes) > 1 and not self._plugin.items_are_independent:
            try:
                return list(self._expand_row(tuple(shapes)))
            except MediaProcessorError as error:
                raise self.locate_refusal(error, items, shapes) from error.__cause__
        expansions = []
        for position, shape in enumerate(shapes):
            try:
                expansions.append(self.expand_one(shape))
            except MediaProcessorError as error:
                index = index_of(items, position)
                raise self._located(error, items[position], index) from error.__cause__
        return expansions

    def expand_one(self, shape: MediaShape) -> Expansion:
        """What an item of this shape, alone in its row, becomes in the text.

        Raises:
            MediaProcessorError: If the processor refuses it.
        """
        if isinstance(shape, AudioShape):
            shape = self._plugin.canonical_audio(self._runner, shape)
        return self._expand_item(shape)

    def _ask_item(self, shape: MediaShape) -> Expansion:
        if isinstance(shape, ImageInfo):
            return self._plugin.plan_image(self._runner, shape)
        return self._plugin.plan_item(self._runner, shape)

    def _ask_row(self, shapes: tuple[MediaShape, ...]) -> tuple[Expansion, ...]:
        return tuple(self._plugin.plan_row(self._runner, shapes))

    def locate_refusal(
        self, error: MediaProcessorError, items: Sequence[MediaItem], shapes: Sequence[MediaShape]
    ) -> MediaError:
        """The processor's error on several items, at the first one that it refuses by itself, where there is one."""
        for position, shape in enumerate(shapes):
            try:
                self.expand_one(shape)
            except MediaProcessorError as own:
                return self._located(own, items[position], index_of(items, position))
        return error.at(column=self._plugin.media_columns[modality_of(shapes[0])])

    # -------------------------------------------------------------------------------------------------- decoded

    def load(
        self,
        items: Sequence[MediaItem],
        plans: Sequence[MediaPlan | None],
        decoded: dict[object, MediaInput] | None = None,
    ) -> list[MediaInput]:
        """Decodes media as planned, each distinct item once.

        Args:
            items: The items.
            plans: What was planned of each; an image may have none.
            decoded: Items that are decoded already, by what they are; those decoded here are added.

        Raises:
            MediaError: If one cannot be decoded, or is not what was planned. Names column, index and source.
        """
        known = {} if decoded is None else decoded
        return [self.load_at(items, position, plan, known) for position, plan in enumerate(plans)]

    def load_at(
        self,
        items: Sequence[MediaItem],
        position: int,
        plan: MediaPlan | None,
        known: dict[object, MediaInput],
    ) -> MediaInput:
        """Decodes one item of a row; see `load`."""
        item = items[position]
        key = item_key(item, plan)
        try:
            made = known[key] if key in known else self._load_one(item, plan)
            if plan is not None:
                _check(made, self.shape(plan))
        except MediaError as error:
            raise self._located(error, item, index_of(items, position)) from error.__cause__
        known[key] = made
        return made

    def locate(self, error: MediaError, items: Sequence[MediaItem], position: int) -> MediaError:
        """The error with the place of the item that it is about."""
        return self._located(error, items[position], index_of(items, position))

    def _load_one(self, item: MediaItem, plan: MediaPlan | None) -> MediaInput:
        if plan is not None and plan.materialised and item.modality != "audio":
            return load_stored(item, self.shape(plan), self._options, self._runner.sampling_rate)
        if item.modality == "image":
            return self._load_image(item.reference)
        if plan is None:
            raise MediaError(f"a {item.modality} cannot be decoded without a plan")
        shape = self.shape(plan)
        if isinstance(shape, VideoShape):
            frames = decode_frames(item.reference, shape.frames, self._options)
            found = (frames.shape[3], frames.shape[2])
            if found != (plan.width, plan.height):
                raise _changed(f"{found[0]}x{found[1]} pixels", f"{plan.width}x{plan.height}")
            sound = None
            if shape.num_samples is not None:
                sound = self._load_samples(split_clip(item.reference).reference, plan)
            return MediaInput(shape, resize(frames, shape.width, shape.height), sound)
        return MediaInput(shape, self._load_samples(item.reference, plan))

    def _load_image(self, reference: MediaReference) -> MediaInput:
        image = decode_image(reference, self._options)
        size = self.shape(MediaPlan("image", image.shape[2], image.shape[1]))
        return image_input(resize(image, size.width, size.height))  # type: ignore[union-attr]

    def _load_samples(self, reference: object, plan: MediaPlan) -> np.ndarray:
        rate = self._runner.sampling_rate
        samples = decode_audio(reference, self._options, rate, start_s=plan.start_s or 0.0, end_s=plan.end_s)
        return fit_num_samples(samples, plan.num_samples or 0, rate)


def index_of(items: Sequence[MediaItem], position: int) -> int:
    """Which item of its modality the item at a position is; chunks of one item, which follow another, count as one."""
    wanted = items[position]
    earlier = [item for item in items[: position + 1] if item.modality == wanted.modality]
    return sum(one is not other for one, other in pairwise(earlier))


def _check(made: MediaInput, planned: MediaShape) -> None:
    if isinstance(made.shape, ImageInfo) and made.shape != planned:
        raise _changed(describe_shape(made.shape), describe_shape(planned))


def _changed(found: str, planned: str) -> MediaDecodeError:
    return MediaDecodeError(
        f"it decodes to {found}, but {planned} were planned: the file or the order of the row's media changed after "
        "the map; map the dataset again"
    )


def _too_long(length_s: float, limit_s: float, otherwise: str) -> MediaLimitError:
    return MediaLimitError(
        f"{length_s:.2f} s of audio, but {limit_s:.2f} s is the longest that is taken in one piece; cut it, "
        f"set MediaOptions(long_audio='truncate') to use its beginning, {otherwise}"
    )
