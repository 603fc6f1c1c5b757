"""Value types that pass between the stages. They check their own invariants at construction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

A file may be a video, whose sound track it then is. A mapping may also be `{"array": ..., "sampling_rate": ...}`;
arrays are `(num_samples,)` or `(num_channels, num_samples)`, and float (full scale being 1), int16, int32 or uint8.
Decoder objects, as `datasets.Audio` gives them, are taken as well: those of `datasets` for the file that they read.
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
        is_frame_list: Whether it is given as a list of images, and so was sampled already.
        starts_at_s: Seconds by the file's clock at which the first frame is displayed; 0 where nothing tells.
        stated_num_frames: How many frames the header states, rightly or not, and nothing goes by; `None` where it
            states none.
        stated_duration_s: Seconds that the header states, likewise.
    """

    width: int
    height: int
    num_frames: int
    timestamps_s: FloatArray | None = None
    fps: float | None = None
    duration_s: float | None = None
    has_audio: bool = False
    is_frame_list: bool = False
    starts_at_s: float = 0.0
    stated_num_frames: int | None = None
    stated_duration_s: float | None = None

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
        starts_at_s: Seconds by the file's clock at which the first sample is to be heard; 0 where nothing tells. Sound
            tracks of videos may start later or earlier than the frames.
        stated_num_samples: Samples that the header states, rightly or not; nothing goes by it. `None` where it states
            none.
    """

    sampling_rate: int
    num_channels: int
    num_samples: int
    starts_at_s: float = field(default=0.0, compare=False)
    stated_num_samples: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.sampling_rate < 1 or self.num_channels < 1 or self.num_samples < 0:
            raise ValueError(f"audio needs a rate, a channel and no negative number of samples, got {self}")

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


@dataclass(frozen=True, slots=True)
class VideoShape:
    """What of a video decides on the tokens that it becomes: all of it is known before a frame is decoded.

    Attributes:
        width: Pixels of a frame as the processor gets it.
        height: Pixels of a frame as the processor gets it.
        frames: Which frames are taken.
        num_source_frames: How many frames there were to choose from: those of the video, or of the wanted part of it.
        fps: Average frames per second of the source; `None` where nothing tells.
        duration_s: Seconds that the frames were chosen from; `None` where nothing tells.
        num_samples: Samples of its sound track at the model's rate, where that is used too.
    """

    width: int
    height: int
    frames: FramePlan
    num_source_frames: int
    fps: float | None = None
    duration_s: float | None = None
    num_samples: int | None = None


@dataclass(frozen=True, slots=True)
class AudioShape:
    """What of an audio item decides on the tokens that it becomes.

    Attributes:
        num_samples: Samples at the model's rate.
    """

    num_samples: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"audio must have at least one sample, got {self.num_samples}")


MediaShape: TypeAlias = ImageInfo | VideoShape | AudioShape
"""Shape of a media item as the processor gets it. Hashable: what an item becomes is remembered by it."""


def modality_of(shape: MediaShape) -> Modality:
    """The modality that a shape is one of."""
    return "image" if isinstance(shape, ImageInfo) else "video" if isinstance(shape, VideoShape) else "audio"


@dataclass(frozen=True, slots=True, eq=False)
class MediaInput:
    """A media item as the processor gets it.

    Attributes:
        shape: Its shape.
        data: An image `(3, height, width)` or the frames of a video `(num_frames, 3, height, width)`, `torch.uint8`
            RGB; or audio `(num_samples,)`, `np.float32`.
        sound: The sound track of a video, `(num_samples,)`, where it is used too.
    """

    shape: MediaShape
    data: torch.Tensor | npt.NDArray[np.float32]
    sound: npt.NDArray[np.float32] | None = None

    @property
    def modality(self) -> Modality:
        """The item's modality."""
        return modality_of(self.shape)


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """What is known and stored of a media item: what its header says, and what will be decoded of it.

    Attributes:
        modality: What it is. Where another modality is meant, an attribute is `None`.
        width: Pixels, oriented; of a video, of each frame.
        height: Pixels, oriented.
        frames: The frames that are decoded of a video.
        num_source_frames: How many frames there were to choose from.
        fps: Average frames per second of the video; `None` where nothing tells.
        duration_s: Seconds of the video, or of the wanted part of it; `None` where nothing tells.
        start_s: Where the audio, or the sound of a video, begins, in seconds from its first sample on.
        end_s: Where it ends; with the file when `None`.
        num_samples: Samples of audio, or of a video's sound where that is used, at the model's rate.
        materialised: Whether the reference is to what the processor makes of the item first, see
            `mmdatasets.collate.materialise`.
    """

    modality: Modality
    width: int | None = None
    height: int | None = None
    frames: FramePlan | None = None
    num_source_frames: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    num_samples: int | None = None
    materialised: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class MediaItem:
    """A media item that a row refers to.

    Attributes:
        modality: What it is.
        reference: Where it is.
    """

    modality: Modality
    reference: MediaReference


@dataclass(frozen=True, slots=True)
class Expansion:
    """What one media item becomes in the text.

    A run of a media token is kept as one token in `text` and its length in `runs`, so that a tokenizer never sees
    thousands of placeholder characters.

    Attributes:
        text: The processor's replacement text with every run of a media token shortened to one token.
        runs: Length of each run, in the order of the text.
    """

    text: str
    runs: tuple[int, ...]

    @property
    def num_media_tokens(self) -> int:
        """How many media tokens the item becomes, which is how many features the model must produce."""
        return sum(self.runs)
