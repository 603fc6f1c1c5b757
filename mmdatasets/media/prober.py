"""Probing media of every kind, by way of the metadata cache where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mmdatasets.media.audio import probe_audio
from mmdatasets.media.clip import is_frame_list, split_clip
from mmdatasets.media.content import content_key
from mmdatasets.media.header import check_pixels
from mmdatasets.media.limits import check_num_frames, check_num_samples
from mmdatasets.media.probe import probe_image
from mmdatasets.media.source import describe_source
from mmdatasets.media.video import describe_video, probe_video
from mmdatasets.types import AudioInfo, ImageInfo, VideoInfo

if TYPE_CHECKING:
    from mmdatasets.media.cache import MetadataCache
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import Modality

Info = TypeVar("Info", ImageInfo, VideoInfo, AudioInfo)


class MediaProber:
    """Finds out what media holds, and remembers it.

    Args:
        options: How media is read.
        cache: Where to look first, and to keep what is found. Errors are not kept.
    """

    def __init__(self, options: MediaOptions, cache: MetadataCache | None = None) -> None:
        self._options = options
        self._cache = cache

    def image(self, reference: object) -> ImageInfo:
        """What `mmdatasets.media.probe.probe_image` finds."""
        info = self._probe("image", reference, ImageInfo, lambda: probe_image(reference, self._options))
        check_pixels((info.width, info.height), self._options, describe_source(reference))
        return info

    def video(self, reference: object) -> VideoInfo:
        """What `mmdatasets.media.video.probe_video` finds; of a list of frames, each of them is remembered."""
        clip = split_clip(reference)
        if is_frame_list(clip.reference):
            return probe_video(reference, self._options, self.image)
        info = self._probe("video", clip.reference, VideoInfo, lambda: probe_video(reference, self._options))
        source = describe_video(clip.reference)
        check_pixels((info.width, info.height), self._options, source, what="frame")
        check_num_frames(info.num_frames, self._options, source)
        return info

    def audio(self, reference: object) -> AudioInfo:
        """What `mmdatasets.media.audio.probe_audio` finds."""
        info = self._probe("audio", reference, AudioInfo, lambda: probe_audio(reference, self._options))
        check_num_samples(info.num_samples, self._options, describe_source(reference))
        return info

    def flush(self) -> None:
        """Has the cache write what was found since the last time."""
        if self._cache is not None:
            self._cache.flush()

    def _probe(self, modality: Modality, reference: object, kind: type[Info], probe: Callable[[], Info]) -> Info:
        if self._cache is None:
            return probe()
        key = content_key(reference, self._options, modality)
        if key is None:
            return probe()
        found = self._cache.get(key)
        if isinstance(found, kind):
            return found
        info = probe()
        # What was written to while it was read is not what the key stands for. Bytes do not change.
        if isinstance(reference, bytes) or content_key(reference, self._options, modality) == key:
            self._cache.put(key, info, describe_source(reference))
        return info
