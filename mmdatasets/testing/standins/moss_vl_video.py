"""What MOSS-VL's published video processor makes of files; see `moss_vl`.

Facts, from a copy of the published code: it reads files itself and takes nothing else; it takes `video_fps` frames a
second, spread evenly over the video, within bounds; frames are resized as by Qwen2-VL, within a budget for each frame
and one for the videos of a call, which these share in proportion to their volumes; patches are Qwen2-VL's with one
frame each. Left out: parts of files (`segments`), and that the videos of a call share `max_frames`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import av
import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv
from transformers import BaseVideoProcessor, BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_utils import VideoMetadata


class MossVLVideosKwargs(VideosKwargs, total=False):  # type: ignore[misc, call-arg]
    """Settings beside those of every video processor."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_frames: int
    max_frames: int
    video_fps: float
    video_max_pixels: int | None


class MossVLVideoProcessor(BaseVideoProcessor):  # type: ignore[misc]
    """Reads, samples and cuts videos. Attributes as published; those not needed here are left out."""

    size = {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}  # noqa: RUF012
    patch_size = 16
    temporal_patch_size = 1
    merge_size = 2
    video_fps = 1.0
    min_frames = 1
    max_frames = 256
    video_max_pixels: int | None = None
    valid_kwargs = MossVLVideosKwargs
    model_input_names = ["pixel_values_videos", "video_grid_thw"]  # noqa: RUF012

    def calculate_num_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        min_frames: int | None = None,
        max_frames: int | None = None,
        **kwargs: object,
    ) -> int:
        """How many frames are taken of a video."""
        if fps is not None and num_frames is not None:
            raise ValueError("num_frames and fps exclude each other")
        most = self.max_frames if max_frames is None else max_frames
        if self.video_max_pixels is not None:
            most = min(most, self.video_max_pixels // self.size["shortest_edge"])
        duration = metadata.duration
        if duration is None:
            duration = metadata.total_num_frames / (metadata.fps or 24.0)
        wanted = num_frames
        if wanted is None:
            wanted = math.ceil(duration * (self.video_fps if fps is None else fps) - 1e-6)
        count: int = max(wanted, self.min_frames if min_frames is None else min_frames)
        total: int = metadata.total_num_frames
        return min(count, most, total)

    def fetch_videos(
        self, video_url_or_urls: str | Sequence[str], sample_indices_fn: None = None, video_fps: float | None = None
    ) -> tuple[object, object]:
        """The sampled frames of files, `(num_frames, 3, height, width)`, and what is known of each."""
        if not isinstance(video_url_or_urls, str):
            pairs = [self.fetch_videos(path, video_fps=video_fps) for path in video_url_or_urls]
            return [frames for frames, _ in pairs], [metadata for _, metadata in pairs]
        with av.open(video_url_or_urls) as container:
            fps = float(container.streams.video[0].average_rate)
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        known = VideoMetadata(total_num_frames=len(frames), fps=fps, duration=len(frames) / fps)
        count = self.calculate_num_frames(known, fps=self.video_fps if video_fps is None else video_fps)
        indices = np.unique(np.linspace(0, len(frames) - 1, count).astype(np.int32))
        metadata = VideoMetadata(
            total_num_frames=len(indices), fps=fps, duration=known.duration, frames_indices=indices
        )
        return torch.from_numpy(frames[indices]).permute(0, 3, 1, 2), metadata

    def preprocess(
        self,
        videos: str | Sequence[str],
        return_metadata: bool = False,
        video_fps: float | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes `pixel_values_videos` `(num_patches, patch_dim)` and `video_grid_thw` `(num_videos, 3)`."""
        paths = [videos] if isinstance(videos, str) else list(videos)
        clips, metadata = self.fetch_videos(paths, video_fps=video_fps)
        volumes = [len(clip) * clip.shape[-2] * clip.shape[-1] for clip in clips]  # type: ignore[attr-defined]
        values, grids = [], []
        for clip, volume in zip(clips, volumes, strict=True):  # type: ignore[call-overload]
            budget = self.size["longest_edge"]
            if self.video_max_pixels is not None:
                budget = int(self.video_max_pixels * volume / sum(volumes))
            height, width = clip.shape[-2:]
            patches, grid = self._cut(clip, self._target(height, width, len(clip), budget))
            values.append(patches)
            grids.append(grid)
        data = {"pixel_values_videos": torch.cat(values), "video_grid_thw": torch.tensor(grids)}
        return BatchFeature({**data, "video_metadata": metadata} if return_metadata else data)

    def _target(self, height: int, width: int, num_frames: int, budget: int) -> tuple[int, int]:
        """Height and width in whole blocks; `budget` counts the pixels of all frames."""
        block = self.patch_size * self.merge_size
        low, high = self.size["shortest_edge"], self.size["longest_edge"]
        if min(height, width) < block or max(height, width) / min(height, width) > 200:
            raise ValueError(f"frames of {width}x{height} pixels are too small or too long")

        def shrunk(pixels: float) -> tuple[int, int]:
            scale = math.sqrt(height * width / pixels)
            return tuple(max(block, math.floor(side / scale / block) * block) for side in (height, width))  # type: ignore[return-value]

        def grown(pixels: float) -> tuple[int, int]:
            scale = math.sqrt(pixels / (height * width))
            return tuple(math.ceil(side * scale / block) * block for side in (height, width))  # type: ignore[return-value]

        sides = (round(height / block) * block, round(width / block) * block)
        if math.prod(sides) > high:
            sides = shrunk(high)
        if num_frames * math.prod(sides) > budget:
            sides = shrunk(budget / num_frames)
        elif num_frames * math.prod(sides) < low:
            sides = grown(low / num_frames)
        return grown(low) if math.prod(sides) < low else sides

    def _cut(self, clip: torch.Tensor, target: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int, int]]:
        size, merge = self.patch_size, self.merge_size
        pixels = tv.resize(clip, list(target), tv.InterpolationMode.BICUBIC, antialias=True)
        pixels = (pixels.float() / 255 - 0.5) / 0.5
        rows, columns = target[0] // size, target[1] // size
        blocks = pixels.reshape(len(clip), 3, rows // merge, merge, size, columns // merge, merge, size)
        return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3 * size * size), (len(clip), rows, columns)
