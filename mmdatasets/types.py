"""Value types that pass between the stages. They check their own invariants at construction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import PIL.Image
    import torch

FloatArray: TypeAlias = "npt.NDArray[np.float64]"

Modality: TypeAlias = Literal["image", "video", "audio"]

MODALITIES: tuple[Modality, ...] = ("image", "video", "audio")

ImageReference: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, object] | PIL.Image.Image | np.ndarray | torch.Tensor"
)
"""Every form in which a row may refer to an image.

A string is a local path, an fsspec URL (`memory://`, `hf://`, `s3://`, ...; `http(s)://` only where
`MediaOptions.allow_http` is set) or a `data:` URI. A mapping is `{"path": ..., "bytes": ...}`, as
`datasets.Image(decode=False)` gives it. Arrays are `uint8`, `(height, width)`, `(height, width, channels)` or
`(channels, height, width)`.
"""

VideoReference: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, object] | Sequence[ImageReference]"
)
"""Every form in which a row may refer to a video: a file, as for images, or the list of its frames.

A mapping may also be `{"frames": [...], "fps": ...}`, and may add `"start"` and `"end"` (seconds) to either form.
"""

AudioReference: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, object] | np.ndarray | torch.Tensor"
)
"""Every form in which a row may refer to audio: a file, as for images, or its samples.

A mapping may also be `{"array": ..., "sampling_rate": ...}`, as `datasets.Audio` decodes it; arrays are float,
`(num_samples,)` or `(num_channels, num_samples)`.
"""

MediaReference: TypeAlias = "ImageReference | VideoReference | AudioReference"


class StoredMedia(TypedDict):
    """A media item as Arrow stores it: the struct of `datasets.Image(decode=False)`."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says.

    Attributes:
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image must be at least 1x1 pixels, got {self.width}x{self.height}")


@dataclass(frozen=True, slots=True, eq=False)
class VideoInfo:
    """What a scan of a video's packets finds. No frame is decoded for it, or at most the first one.

    Attributes:
        width: Pixels, as displayed: after rotation.
        height: Pixels, as displayed: after rotation.
        num_frames: How many frames a full decode gives: counted, not what the header states.
        timestamps_s: `(num_frames,)` seconds at which each frame is displayed, from the first one on, which is at 0.
            `None` where nothing tells: a list of frames without a rate.
        fps: Average frames per second; `None` where nothing tells.
        duration_s: Seconds, the last frame's own duration included; `None` where nothing tells.
        has_audio: Whether there is a sound track.
    """

    width: int
    height: int
    num_frames: int
    timestamps_s: FloatArray | None = None
    fps: float | None = None
    duration_s: float | None = None
    has_audio: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.num_frames < 1:
            raise ValueError(
                f"a video must have at least one frame of 1x1 pixels, got {self.num_frames} of "
                f"{self.width}x{self.height}"
            )
        if self.timestamps_s is not None and len(self.timestamps_s) != self.num_frames:
            raise ValueError(f"{self.num_frames} frames need as many timestamps, got {len(self.timestamps_s)}")


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Which frames of a video are decoded.

    Attributes:
        indices: Positions in the video's frames, in the order of presentation. May repeat, must not decrease.
        timestamps_s: Seconds of each of them, see `VideoInfo`; `None` where the video has none.
    """

    indices: tuple[int, ...]
    timestamps_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.indices:
            raise ValueError("a plan must have at least one frame")
        if any(later < earlier for earlier, later in zip(self.indices, self.indices[1:], strict=False)):
            raise ValueError(f"frame indices must not decrease, got {self.indices}")
        if self.timestamps_s is not None and len(self.timestamps_s) != len(self.indices):
            raise ValueError(f"{len(self.indices)} frames need as many timestamps, got {len(self.timestamps_s)}")


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What audio decodes to, before resampling and mixing down.

    Attributes:
        sampling_rate: Samples per second of each channel.
        num_channels: Channels.
        num_samples: Samples of each channel as decoded: counted where the header is wrong or silent.
    """

    sampling_rate: int
    num_channels: int
    num_samples: int

    def __post_init__(self) -> None:
        if self.sampling_rate < 1 or self.num_channels < 1 or self.num_samples < 0:
            raise ValueError(f"audio needs a rate, a channel and no negative number of samples, got {self}")

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


@dataclass(frozen=True, slots=True)
class Expansion:
    """What one media item becomes in the text.

    A run of the media token is kept as one token in `text` and its length in `runs`, so that a tokenizer never sees
    thousands of placeholder characters.

    Attributes:
        text: The processor's replacement text with every run of the media token shortened to one token.
        runs: Length of each run, in the order of the text.
    """

    text: str
    runs: tuple[int, ...]

    @property
    def num_media_tokens(self) -> int:
        """How many media tokens the item becomes, which is how many features the model must produce."""
        return sum(self.runs)
