"""The one place where every default of media handling, and of fitting rows into a length, stands."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias, get_args

ImageBackend: TypeAlias = Literal["auto", "pillow", "torchcodec"]
VideoBackend: TypeAlias = Literal["pyav", "torchcodec", "decord"]
VideoSampling: TypeAlias = Literal["processor", "fps", "uniform", "all"]
AudioBackend: TypeAlias = Literal["soundfile", "pyav", "torchcodec"]
Resampler: TypeAlias = Literal["soxr", "torchaudio"]
LongAudio: TypeAlias = Literal["error", "truncate", "chunk"]
Overflow: TypeAlias = Literal["error", "drop", "drop_turns", "truncate", "shrink"]
ErrorPolicy: TypeAlias = Literal["raise", "skip", "quarantine"]
"""What becomes of rows that cannot be used; see `mmdatasets.plugins.tolerating.Tolerating`."""

IMAGE_PIXEL_LIMIT = 2**27  # 134 megapixels: above a 108-megapixel phone photo, below Pillow's own error at 179


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """How media is read and sized. `None` leaves a choice to the model's own processor.

    Attributes:
        image_max_pixels: Upper bound on the pixels (width x height) that the processor resizes an image to. It is
            given to the processor as its `size`, where that counts pixels, and holds exactly. Processors that enlarge
            every image to a number of tiles (`max_patches`, say) get a bound on these instead, of one tile at least.
            Others get the image resized to it before (bicubic, antialiased, the aspect ratio kept); what they then
            make of that is up to them: some fit every image into one square, some round its sides up to whole
            patches.
        image_min_pixels: Lower bound on the same.
        image_pixel_limit: Images, and frames of videos, with more pixels in their header are refused before any
            decoding.
        image_backend: `"pillow"` decodes with Pillow. `"torchcodec"` decodes with torchcodec the formats for which
            it equals Pillow bit for bit, the others with Pillow. `"auto"` is `"torchcodec"` where that is installed
            and usable, else `"pillow"`; the pixels are the same.
        video_max_pixels: Upper bound on the pixels (width x height) of each frame that the processor resizes to.
            Processors with a minimum of their own for all frames together keep that.
        video_min_pixels: Lower bound on the same.
        video_sampling: Which frames are taken. `"processor"`: those that the model's own video processor samples,
            with `video_fps` or `video_num_frames` as its `fps` or `num_frames` where given; all frames where neither
            is given and the processor does not sample by itself (`do_sample_frames=False`). `"fps"`: `video_fps`
            frames a second, or, where these are more than `video_max_frames`, that many spread evenly over the clip.
            `"uniform"`: `video_num_frames` spread evenly over the clip. `"all"`: every frame.
        video_fps: Frames per second to sample.
        video_num_frames: How many frames to sample.
        video_max_frames: Upper bound on the sampled frames.
        video_min_frames: Lower bound on the sampled frames.
        video_backend: What decodes videos: `"pyav"`, `"torchcodec"` (needs the extra `torchcodec` and a system
            FFmpeg) or `"decord"` (needs the extra `decord`). The latter two are refused for files of which they give
            wrong frames. PyAV probes in any case.
        audio_sampling_rate: Samples per second that the model takes; the processor's own when `None`. Another one than
            that is an error at the first use.
        audio_backend: What decodes audio files. `"soundfile"` decodes what libsndfile reads right, and the rest (m4a,
            aac, sound tracks, MP3 whose header does not state the length) with PyAV. `"pyav"` and `"torchcodec"`
            (needs the extra `torchcodec` and a system FFmpeg) decode everything.
        audio_resampler: What changes the sampling rate: `"soxr"`, or `"torchaudio"` (needs the extra `torchaudio`).
        audio_max_duration_s: Longest audio, in seconds; as long as the processor takes in one piece when `None`.
        long_audio: What becomes of longer audio: `"error"`, `"truncate"` (its beginning is used) or `"chunk"` (it
            becomes several items).
        use_audio_in_video: Whether a video's sound track is used too, by models that take both together.
        media_root: Directory that relative local paths are resolved against; the working directory when `None`.
        allow_http: Whether `http://` and `https://` references may be opened.
        http_timeout_s: Seconds without an answer, or without further bytes of one, after which such a reference is
            given up.
        decode_timeout_s: Seconds that reading and decoding one item may take, or reading its header; `None` for any
            time. With it, another process does that, which is killed when the time is over: each process that reads
            media (each worker of a `DataLoader`) has one, of some 300 MB, and each item travels from there, see
            `benchmarks/README.md`. File objects, PIL images and arrays are read in the process that has them, which
            takes what time it takes. The other process knows the filesystems of installed packages, not those that a
            program registered with fsspec itself.
    """

    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    image_pixel_limit: int = IMAGE_PIXEL_LIMIT
    image_backend: ImageBackend = "auto"
    video_max_pixels: int | None = None
    video_min_pixels: int | None = None
    video_sampling: VideoSampling = "processor"
    video_fps: float | None = None
    video_num_frames: int | None = None
    video_max_frames: int | None = None
    video_min_frames: int | None = None
    video_backend: VideoBackend = "pyav"
    audio_sampling_rate: int | None = None
    audio_backend: AudioBackend = "soundfile"
    audio_resampler: Resampler = "soxr"
    audio_max_duration_s: float | None = None
    long_audio: LongAudio = "error"
    use_audio_in_video: bool = False
    media_root: str | None = None
    allow_http: bool = False
    http_timeout_s: float = 30.0
    decode_timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer or None, got {value!r}")
        for name in ("video_fps", "audio_max_duration_s", "http_timeout_s", "decode_timeout_s"):
            value = getattr(self, name)
            is_set = value is not None or name == "http_timeout_s"
            if is_set and not (isinstance(value, int | float) and 0 < value < float("inf")):
                raise ValueError(f"{name} must be a positive number or None, got {value!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(map(repr, get_args(choices)))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for what in ("image_{}_pixels", "video_{}_pixels", "video_{}_frames"):
            low, high = getattr(self, what.format("min")), getattr(self, what.format("max"))
            if low is not None and high is not None and low > high:
                raise ValueError(f"{what.format('min')} ({low}) must not exceed {what.format('max')} ({high})")
        self._check_sampling()
        if self.media_root is not None and "://" in self.media_root:
            raise ValueError(f"media_root must be a local directory, got {self.media_root!r}")

    def _check_sampling(self) -> None:
        if self.video_fps is not None and self.video_num_frames is not None:
            raise ValueError("video_fps and video_num_frames exclude each other: give one of them")
        needed = {"fps": "video_fps", "uniform": "video_num_frames"}.get(self.video_sampling)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"video_sampling={self.video_sampling!r} needs {needed}")


_COUNTS = (
    "image_max_pixels",
    "image_min_pixels",
    "image_pixel_limit",
    "video_max_pixels",
    "video_min_pixels",
    "video_num_frames",
    "video_max_frames",
    "video_min_frames",
    "audio_sampling_rate",
)
_CHOICES = {
    "image_backend": ImageBackend,
    "video_sampling": VideoSampling,
    "video_backend": VideoBackend,
    "audio_backend": AudioBackend,
    "audio_resampler": Resampler,
    "long_audio": LongAudio,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkFloor:
    """How far `on_overflow="shrink"` lowers what a row's media may take.

    A larger minimum in `MediaOptions` counts instead.

    Attributes:
        image_pixels: Lowest bound on the pixels (width x height) of an image. 224 x 224, which vision encoders were
            first trained on, is 64 tokens of Qwen2-VL.
        video_pixels: Lowest bound on the pixels of each frame of a video. 112 x 112 is 16 tokens of Qwen2-VL for two
            frames.
        video_frames: Lowest bound on the frames of a video. Frames that a row names itself are all taken.
    """

    image_pixels: int = 224 * 224
    video_pixels: int = 112 * 112
    video_frames: int = 4

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{item.name} must be a positive integer, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBudget:
    """Upper bounds that a single row's media keeps, beyond those of `MediaOptions`; `None` where it has none.

    Attributes:
        image_max_pixels: As in `MediaOptions`.
        video_max_pixels: As in `MediaOptions`.
        video_max_frames: As in `MediaOptions`.
    """

    image_max_pixels: int | None = None
    video_max_pixels: int | None = None
    video_max_frames: int | None = None

    def applied_to(self, options: MediaOptions) -> MediaOptions:
        """The options with these bounds in the place of theirs."""
        bounds = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(options, **{name: bound for name, bound in bounds.items() if bound is not None})
