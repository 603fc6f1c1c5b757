"""The one place where every default of media handling, and of fitting rows into a length, stands."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, get_args

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
VIDEO_PIXEL_LIMIT = 2**31  # 6.4 GB decoded: 1,000 frames of 1920x1080
VIDEO_FRAME_LIMIT = 2**20  # 9.7 hours of 30 frames a second
AUDIO_SAMPLE_LIMIT = 2**29  # 2 GiB decoded: 3 hours at 48 kHz, 9 hours at 16 kHz
BYTE_LIMIT = 2**32  # an hour of 9.5 Mbit/s, which is video of 1920x1080 at a good quality
UNTRUSTED_DECODE_TIMEOUT_S = 60.0
UNTRUSTED_DECODE_MEMORY_LIMIT = 2**33


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
            decoding; where the header lies, before more than these are kept.
        video_pixel_limit: Videos of which the frames that are taken have more pixels together are refused before they
            are decoded: 3 bytes each are kept.
        video_frame_limit: Videos, and lists of frames, of more frames are refused: as soon as the header says so, or
            so many are counted. What is kept of each, taken or not, is some 200 bytes.
        audio_sample_limit: Audio of more samples of each channel is refused, likewise: 4 bytes of each are kept,
            whatever the number of channels.
        byte_limit: Files, remote files and bytes that are longer are refused, before they are read where they say
            how long they are. Of a local file only what is asked for is read; a remote one that gives no ranges is
            kept in a temporary file.
        allow_truncated: Whether media that ends too early is used as far as it goes: images as Pillow gives them with
            `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`, what is missing being grey or black; of videos and audio the frames
            and samples that FFmpeg decodes. They are refused otherwise, wherever the file tells that it is cut off.
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
        media_root: Directory that relative local paths are resolved against; the working directory when `None`, or,
            with `media_roots`, the first of these that has the file.
        media_roots: Directories that local files must lie in: absolute paths, `..` and symbolic links that lead out
            of them are refused, those of `file://` URLs, lists of frames and archives too. An empty tuple refuses all
            local files. `None`: any file that this process may read.
        allow_http: Whether `http://` and `https://` references may be opened.
        allow_private_addresses: Whether these may lead, directly, by a name or by a redirect, to addresses that are
            not of the public internet: this host, the local network, the metadata service of a cloud.
        allowed_protocols: Which other URLs may be opened, by the names that fsspec has for them (`"s3"`, `"hf"`), each
            part of a chain (`"zip"`, `"simplecache"`) included. `None`: with `media_roots` none, else whatever fsspec
            and installed packages know.
        http_timeout_s: Seconds without an answer, or without further bytes of one, after which an `http(s)` reference
            is given up, and seconds within which a remote file must say which version of it there is.
        http_total_timeout_s: Seconds that reading one `http(s)` reference may take, each time that it is opened, and
            as many that the server may take to say how long it is.
        decode_timeout_s: Seconds that reading and decoding one item may take, or reading its header; `None` for any
            time. With it, another process does that, which is killed when the time is over: each process that reads
            media (each worker of a `DataLoader`) has one, and each item travels from there, see
            `benchmarks/README.md`. File objects, PIL images and arrays are read in the process that has them, which
            takes what time it takes. The other process knows the filesystems of installed packages, not those that a
            program registered with fsspec itself.
        decode_memory_limit: Bytes that the other process may hold (Linux only), `None` for no bound of its own. An
            item that needs more is refused. Whatever lies in a file that none of the limits above counts meets this
            one. 1 GiB is the least, of which torch takes a part.
    """

    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    image_pixel_limit: int = IMAGE_PIXEL_LIMIT
    video_pixel_limit: int = VIDEO_PIXEL_LIMIT
    video_frame_limit: int = VIDEO_FRAME_LIMIT
    audio_sample_limit: int = AUDIO_SAMPLE_LIMIT
    byte_limit: int = BYTE_LIMIT
    allow_truncated: bool = False
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
    media_roots: tuple[str, ...] | None = None
    allow_http: bool = False
    allow_private_addresses: bool = False
    allowed_protocols: tuple[str, ...] | None = None
    http_timeout_s: float = 30.0
    http_total_timeout_s: float = 300.0
    decode_timeout_s: float | None = None
    decode_memory_limit: int | None = None

    @classmethod
    def untrusted(cls, *media_roots: str, **fields: Any) -> Self:  # noqa: ANN401 - each field has a type of its own
        """Options for rows from strangers.

        Local files are confined to `media_roots`, no other filesystem is opened, and media is decoded by a process of
        its own, which is ended after a minute or beyond 8 GiB. See `SECURITY.md`.

        Args:
            *media_roots: Directories that local files must lie in; none for no local files.
            **fields: Further fields, or others in the place of these.
        """
        strict: dict[str, Any] = {
            "media_roots": media_roots,
            "allowed_protocols": (),
            "decode_timeout_s": UNTRUSTED_DECODE_TIMEOUT_S,
            "decode_memory_limit": UNTRUSTED_DECODE_MEMORY_LIMIT,
        }
        return cls(**{**strict, **fields})

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            is_set = value is not None or name in _LIMITS
            if is_set and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer or None, got {value!r}")
        for name in ("video_fps", "audio_max_duration_s", "decode_timeout_s", *_NEEDED_TIMES):
            value = getattr(self, name)
            is_set = value is not None or name in _NEEDED_TIMES
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
        self._check_places()
        if self.decode_memory_limit is not None and (
            self.decode_timeout_s is None or self.decode_memory_limit < _LEAST_MEMORY
        ):
            raise ValueError(
                "decode_memory_limit is that of the process that decodes: it needs decode_timeout_s, and must be "
                f"{_LEAST_MEMORY:,} bytes or more, got {self.decode_memory_limit:,}"
            )

    def _check_places(self) -> None:
        if self.media_root is not None and "://" in self.media_root:
            raise ValueError(f"media_root must be a local directory, got {self.media_root!r}")
        for name in ("media_roots", "allowed_protocols"):
            values = getattr(self, name)
            if values is None:
                continue
            if isinstance(values, str) or not all(isinstance(value, str) and value for value in values):
                raise ValueError(f"{name} must be a tuple of strings or None, got {values!r}")
            object.__setattr__(self, name, tuple(values))
        if any("://" in root for root in self.media_roots or ()):
            raise ValueError(f"media_roots must be local directories, got {self.media_roots!r}")

    def _check_sampling(self) -> None:
        if self.video_fps is not None and self.video_num_frames is not None:
            raise ValueError("video_fps and video_num_frames exclude each other: give one of them")
        needed = {"fps": "video_fps", "uniform": "video_num_frames"}.get(self.video_sampling)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"video_sampling={self.video_sampling!r} needs {needed}")


_NEEDED_TIMES = ("http_timeout_s", "http_total_timeout_s")
_LEAST_MEMORY = 2**30
_LIMITS = ("image_pixel_limit", "video_pixel_limit", "video_frame_limit", "audio_sample_limit", "byte_limit")
_COUNTS = (
    "image_max_pixels",
    "image_min_pixels",
    "image_pixel_limit",
    "video_pixel_limit",
    "video_frame_limit",
    "audio_sample_limit",
    "byte_limit",
    "decode_memory_limit",
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
