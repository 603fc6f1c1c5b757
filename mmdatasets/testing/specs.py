"""Media items of the conformance suite: what their files are made of, and what a decoder must find in them.

The decoding here is the plain one, whole files in sequence: what the package decodes is compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Protocol

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from transformers.video_utils import VideoMetadata

from mmdatasets.testing.audio import make_audio
from mmdatasets.testing.media import cut_pixel_data, write_image
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.types import Modality


class MediaSpec(Protocol):
    """A synthetic media item: what a file is made of."""

    modality: ClassVar[Modality]

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder, unless it is there, and returns its path."""

    def reference(self, file: str) -> object:
        """What stands for the item in the data."""

    def cut(self, path: Path, folder: Path) -> Path:
        """Copies the file into a folder without what a decoder needs; who reads headers alone finds nothing wrong."""


@dataclass(frozen=True)
class ImageSpec:
    """A JPEG image.

    Attributes:
        width: Pixels.
        height: Pixels.
    """

    width: int
    height: int
    modality: ClassVar[Modality] = "image"

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder, unless it is there, and returns its path."""
        path = folder / f"{self.width}x{self.height}.jpg"
        return path if path.exists() else write_image(path, self.width, self.height, seed=self.width)

    def reference(self, file: str) -> str:
        """The path."""
        return file

    def cut(self, path: Path, folder: Path) -> Path:
        """Copies the file into a folder up to where its pixel data starts."""
        copy = folder / path.name
        copy.write_bytes(cut_pixel_data(path.read_bytes()))
        return copy


@dataclass(frozen=True)
class ClipSpec:
    """Frames of an H.264 video of 16 frames, 4 a second.

    Attributes:
        width: Pixels.
        height: Pixels.
        indices: The frames.
    """

    width: int
    height: int
    indices: tuple[int, ...]
    modality: ClassVar[Modality] = "video"
    num_frames: ClassVar[int] = 16
    rate: ClassVar[int] = 4

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder, unless it is there, and returns its path."""
        path = folder / f"{self.width}x{self.height}.mp4"
        if path.exists():
            return path
        spec = VideoSpec(
            num_frames=self.num_frames, width=self.width, height=self.height, rate=Fraction(self.rate), b_frames=2
        )
        return write_video(path, spec)

    def reference(self, file: str) -> dict[str, object]:
        """The path and the frames."""
        return {"path": file, "indices": list(self.indices)}

    def cut(self, path: Path, folder: Path) -> Path:
        """Copies the file into a folder with all frames but the first zeroed."""
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in packets[1:]:
            data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
        copy = folder / path.name
        copy.write_bytes(bytes(data))
        return copy

    def decode(self, file: str) -> torch.Tensor:
        """The frames, `torch.uint8` `(num_frames, 3, height, width)`."""
        with av.open(file) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        chosen = np.stack([frames[index] for index in self.indices])
        return torch.from_numpy(chosen).permute(0, 3, 1, 2)

    def metadata(self) -> VideoMetadata:
        """What processors are told of it."""
        return VideoMetadata(
            total_num_frames=self.num_frames,
            fps=float(self.rate),
            width=self.width,
            height=self.height,
            duration=self.num_frames / self.rate,
            frames_indices=list(self.indices),
        )


@dataclass(frozen=True)
class AudioSpec:
    """A WAV file of 32-bit floats.

    Attributes:
        duration_s: Seconds.
        sampling_rate: Samples per second.
        num_channels: Channels.
    """

    duration_s: float
    sampling_rate: int = 16_000
    num_channels: int = 1
    modality: ClassVar[Modality] = "audio"

    def write(self, folder: Path) -> Path:
        """Writes the file into a folder, unless it is there, and returns its path."""
        path = folder / f"{self.duration_s}s_{self.sampling_rate}_{self.num_channels}.wav"
        if not path.exists():
            samples = make_audio(self.sampling_rate, round(self.duration_s * self.sampling_rate), self.num_channels)
            soundfile.write(path, np.atleast_2d(samples).T, self.sampling_rate, subtype="FLOAT")
        return path

    def reference(self, file: str) -> str:
        """The path."""
        return file

    def cut(self, path: Path, folder: Path) -> Path:
        """Copies the file into a folder with samples that are no numbers, which a decoder refuses."""
        info = soundfile.info(path)
        copy = folder / path.name
        samples = np.full((info.frames, info.channels), np.nan, dtype=np.float32)
        soundfile.write(copy, samples, info.samplerate, subtype="FLOAT")
        return copy

    def decode(self, file: str, sampling_rate: int) -> npt.NDArray[np.float32]:
        """The samples, mono at a rate, `(num_samples,)`."""
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
        made: npt.NDArray[np.float32] = soxr.resample(mono, rate, sampling_rate) if rate != sampling_rate else mono
        return made
