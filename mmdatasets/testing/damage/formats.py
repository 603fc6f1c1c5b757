"""A small valid file of every format, which is what gets damaged."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from PIL import features

from mmdatasets.testing.audio import encode_audio, make_audio
from mmdatasets.testing.media import encode_image, make_image
from mmdatasets.testing.video import VideoSpec, encode_video
from mmdatasets.types import Modality

SIZE = (48, 32)
"""Width and height of the images, in pixels."""

RATE = 16_000
_NUM_SAMPLES = 4_000
_VP9 = {"codec": "libvpx-vp9", "pixel_format": "yuv420p"}


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """A file format.

    Attributes:
        name: Its name.
        modality: As what its files are used.
        suffix: Of the names of its files.
        make: Makes a valid file; see `MediaFormat.valid`.
    """

    name: str
    modality: Modality
    suffix: str
    make: Callable[[], bytes]

    @property
    def valid(self) -> bytes:
        """A valid file, made once."""
        return _made(self)


@cache
def _made(format: MediaFormat) -> bytes:
    return format.make()


@cache
def media_formats() -> Sequence[MediaFormat]:
    """The formats that this installation writes: AVIF, say, is an option of Pillow."""
    return (*_images(), *_videos(), *_audios())


def format_named(name: str) -> MediaFormat:
    """One of the formats.

    Raises:
        KeyError: There is none of that name.
    """
    return {own.name: own for own in media_formats()}[name]


def _images() -> list[MediaFormat]:
    encode: Callable[..., bytes] = encode_image

    def saved(name: str, suffix: str, format: str, **options: object) -> MediaFormat:
        return MediaFormat(name, "image", suffix, partial(encode, *SIZE, 0, format, **options))

    turned = make_image(4, 4).getexif()
    turned[0x0112] = 6  # EXIF orientation
    formats = [
        saved("jpeg", ".jpg", "JPEG"),
        saved("jpeg_progressive", ".jpg", "JPEG", progressive=True),
        saved("jpeg_turned", ".jpeg", "JPEG", exif=turned.tobytes()),
        saved("png", ".png", "PNG"),
        MediaFormat("png_palette", "image", ".png", _palette_png),
        saved("gif", ".gif", "GIF"),
        MediaFormat("gif_animated", "image", ".gif", partial(_animated, "GIF")),
        saved("bmp", ".bmp", "BMP"),
        saved("tiff", ".tif", "TIFF"),
        saved("tiff_deflate", ".tif", "TIFF", compression="tiff_adobe_deflate"),
        saved("ico", ".ico", "ICO", sizes=[(32, 32)]),
        saved("ppm", ".ppm", "PPM"),
        saved("tga", ".tga", "TGA"),
    ]
    if features.check("webp"):
        formats += [
            saved("webp_lossy", ".webp", "WEBP"),
            saved("webp_lossless", ".webp", "WEBP", lossless=True),
            MediaFormat("webp_animated", "image", ".webp", partial(_animated, "WEBP")),
        ]
    if features.check("avif"):
        formats.append(saved("avif", ".avif", "AVIF"))
    if features.check("jpg_2000"):
        formats.append(saved("jpeg2000", ".jp2", "JPEG2000"))
    return formats


def _palette_png() -> bytes:
    buffer = io.BytesIO()
    image = make_image(*SIZE).quantize(16)
    image.save(buffer, "PNG", transparency=3)
    return buffer.getvalue()


def _animated(format: str) -> bytes:
    buffer = io.BytesIO()
    first, *rest = (make_image(*SIZE, seed=seed) for seed in range(3))
    first.save(buffer, format, save_all=True, append_images=rest, duration=40, loop=0)
    return buffer.getvalue()


def _videos() -> list[MediaFormat]:
    def encoded(name: str, suffix: str, **fields: object) -> MediaFormat:
        spec = VideoSpec(**{"num_frames": 10, "width": 64, "height": 48, "gop": 5, **fields})  # type: ignore[arg-type]
        return MediaFormat(name, "video", suffix, partial(encode_video, spec))

    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    return [
        encoded("mp4", ".mp4", audio_codec="aac"),
        encoded("mp4_index_first", ".mp4", container_options={"movflags": "faststart"}),
        encoded("mp4_fragmented", ".mp4", container_options=fragmented),
        encoded("mov", ".mov", format="mov"),
        encoded("matroska", ".mkv", format="matroska"),
        encoded("webm", ".webm", format="webm", **_VP9),
        encoded("avi", ".avi", format="avi", codec="mpeg4", b_frames=0),
        encoded("mpegts", ".ts", format="mpegts", audio_codec="aac"),
        encoded("flv", ".flv", format="flv"),
        encoded("gif_video", ".gif", format="gif", codec="gif", pixel_format="rgb8"),
    ]


def _audios() -> list[MediaFormat]:
    def encoded(name: str, suffix: str, format: str | None = None, rate: int = RATE) -> MediaFormat:
        samples = make_audio(rate, _NUM_SAMPLES * rate // RATE)
        return MediaFormat(name, "audio", suffix, partial(encode_audio, samples, rate, format or name))

    return [
        encoded("wav", ".wav"),
        encoded("wav_float", ".wav"),
        encoded("aiff", ".aiff"),
        encoded("flac", ".flac"),
        encoded("ogg", ".ogg"),
        encoded("opus", ".opus", rate=48_000),
        encoded("mp3", ".mp3"),
        encoded("m4a", ".m4a"),
        encoded("adts", ".aac"),
        encoded("weba", ".weba", rate=48_000),
    ]
