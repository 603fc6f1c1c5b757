"""Where decoded frames go: one tensor that is allocated once and filled frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.limits import check_video_pixels

if TYPE_CHECKING:
    import numpy.typing as npt
    from av.video.frame import VideoFrame

    from mmdatasets.options import MediaOptions

    Pixels = npt.NDArray[np.uint8]


def quarter_turns(frame: VideoFrame) -> int:
    """How many times a frame must be turned by 90 degrees, counterclockwise, to be upright: 0 to 3.

    The display matrix is that of ISO/IEC 14496-12, section 8.3.2. Other angles are rounded, mirroring is left alone.
    """
    degrees = frame.rotation  # PyAV's, cut to an integer; without meaning where the matrix is singular
    return round(degrees / 90) % 4 if abs(degrees) <= 180 else 0


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Width and height, in pixels, of a frame once it is upright."""
    return (frame.height, frame.width) if quarter_turns(frame) % 2 else (frame.width, frame.height)


def size_differs(index: int, size: tuple[int, int], others: tuple[int, int], source: str) -> MediaDecodeError:
    """The error of a frame that has another size, `(width, height)`, than others."""
    return MediaDecodeError(
        f"frame {index} is {size[0]}x{size[1]} pixels, other frames are {others[0]}x{others[1]}; the frames of a "
        "video must have one size: encode it anew, or cut it where the size changes",
        source=source,
    )


class FrameWriter:
    """Takes each planned frame once, in any order, and puts it wherever the plan has it.

    Args:
        indices: Positions in the video's frames, as `FramePlan` has them.
        source: Description for errors.
        limits: `video_pixel_limit` is used.
    """

    def __init__(self, indices: Sequence[int], source: str, limits: MediaOptions) -> None:
        self._rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            self._rows.setdefault(index, []).append(row)
        self._num_rows = len(indices)
        self._source = source
        self._limits = limits
        self._frames: torch.Tensor | None = None
        self._missing = set(self._rows)
        self._reformatter = VideoReformatter()

    def restart(self) -> None:
        """Forgets what was written."""
        self._missing = set(self._rows)

    @property
    def missing(self) -> set[int]:
        """Indices of frames that were not written yet."""
        return self._missing

    def write_frame(self, index: int, frame: VideoFrame) -> None:
        """Turns a decoded frame upright and stores its pixels as RGB."""
        # A thread pool would be made anew for each frame size; one frame takes half a millisecond.
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(frame.height, plane.line_size)
        pixels = lines[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        self.write(index, np.rot90(pixels, quarter_turns(frame)))

    def write(self, index: int, pixels: Pixels) -> None:
        """Stores the pixels of a frame, `uint8` `(height, width, 3)`, RGB, upright.

        Raises:
            MediaDecodeError: The size is another than that of the frames before.
            MediaLimitError: All frames of this size are more pixels than `video_pixel_limit`.
        """
        if self._frames is None:
            check_video_pixels(self._num_rows, pixels.shape[1], pixels.shape[0], self._limits, self._source)
            self._frames = torch.empty((self._num_rows, *pixels.shape), dtype=torch.uint8)
        height, width = self._frames.shape[1:3]
        if pixels.shape[:2] != (height, width):
            raise size_differs(index, (pixels.shape[1], pixels.shape[0]), (width, height), self._source)
        target = self._frames.numpy()
        first, *repeats = self._rows[index]
        np.copyto(target[first], pixels)
        for row in repeats:
            target[row] = target[first]
        self._missing.discard(index)

    def finish(self) -> torch.Tensor:
        """The frames, `uint8` `(num_frames, 3, height, width)`, stored with the channels last."""
        if self._frames is None or self._missing:
            raise RuntimeError(f"frames {sorted(self._missing)} were not written")
        return self._frames.permute(0, 3, 1, 2)
