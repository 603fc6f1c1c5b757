"""Videos, and other files of containers, whose tables lie: sizes, counts, durations, places of the data."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from random import Random

from mmdatasets.testing.damage.contents import FileDamage
from mmdatasets.testing.damage.formats import MediaFormat
from mmdatasets.testing.mp4_boxes import find_box
from mmdatasets.testing.video import VideoSpec, encode_video

_ISO = ("mp4", "mp4_index_first", "mp4_fragmented", "mov", "m4a")
_EBML = ("matroska", "webm", "weba")
_MUXERS = {"mp4": "mp4", "mov": "mov", "matroska": "matroska", "webm": "webm", "avi": "avi", "mpegts": "mpegts"}
_LARGEST = 0xFFFFFFFF

# EBML element -> its identifier; RFC 9559.
_ELEMENTS = {
    "Duration": b"\x44\x89",
    "TimestampScale": b"\x2a\xd7\xb1",
    "PixelWidth": b"\xb0",
    "PixelHeight": b"\xba",
    "Tracks": b"\x16\x54\xae\x6b",
    "Cluster": b"\x1f\x43\xb6\x75",
    "Segment": b"\x18\x53\x80\x67",
}


def container_damage() -> dict[str, FileDamage]:
    """Name -> damage; `None` of it where a format has no such field."""
    return {**_of_boxes(), **_of_elements(), **_of_avi(), **_of_frames(), "packets in disorder": _shuffled_packets}


def _of_boxes() -> dict[str, FileDamage]:
    """ISO/IEC 14496-12: numbers in boxes, each at its offset from the box's content."""
    numbers: dict[str, tuple[bytes, int, str, tuple[int, ...]]] = {
        "an MP4 of no duration": (b"mvhd", 16, ">I", (0,)),
        "an MP4 of 136 years": (b"mvhd", 16, ">I", (_LARGEST,)),
        "an MP4 of no time scale": (b"mvhd", 12, ">I", (0,)),
        "an MP4 track of no time scale": (b"mdhd", 12, ">I", (0,)),
        "an MP4 track of 136 years": (b"mdhd", 16, ">I", (_LARGEST,)),
        "an MP4 track of no size": (b"tkhd", 76, ">II", (0, 0)),
        "an MP4 track of 65535 x 65535": (b"tkhd", 76, ">II", (_LARGEST, _LARGEST)),
        "an MP4 matrix of nothing": (b"tkhd", 40, ">9I", (0,) * 9),
        "an MP4 picture of no size": (b"stsd", 8 + 32, ">HH", (0, 0)),
        "an MP4 picture of 65535 x 65535": (b"stsd", 8 + 32, ">HH", (65_535, 65_535)),
        "MP4 samples of 2 GB": (b"stsz", 4, ">I", (2**31 - 1,)),
        "4 billion MP4 samples": (b"stsz", 8, ">I", (_LARGEST,)),
        "4 billion MP4 samples of 1 byte": (b"stsz", 4, ">II", (1, _LARGEST)),
        "16 million MP4 samples of no size": (b"stsz", 4, ">II", (0, 1 << 24)),
        "an MP4 sample that is 2 GB long": (b"stsz", 12, ">I", (2**31 - 1,)),
        "no MP4 sample": (b"stsz", 8, ">I", (0,)),
        "4 billion MP4 chunks": (b"stco", 4, ">I", (_LARGEST,)),
        "an MP4 chunk behind the end": (b"stco", 8, ">I", (_LARGEST,)),
        "an MP4 chunk at the beginning": (b"stco", 8, ">I", (0,)),
        "no MP4 chunk": (b"stco", 4, ">I", (0,)),
        "4 billion times of MP4 samples": (b"stts", 8, ">I", (_LARGEST,)),
        "times of MP4 samples that go back": (b"stts", 12, ">I", (_LARGEST,)),
        "no times of MP4 samples": (b"stts", 4, ">I", (0,)),
        "4 billion MP4 samples a chunk": (b"stsc", 12, ">I", (_LARGEST,)),
        "MP4 chunks of no description": (b"stsc", 16, ">I", (9,)),
        "MP4 edits that begin before it": (b"elst", 12, ">I", (2**31,)),
        "4 billion MP4 edits": (b"elst", 4, ">I", (_LARGEST,)),
        "an MP4 of an unknown codec": (b"stsd", 12, ">I", (0x6E6F6E65,)),
    }
    kinds: dict[str, FileDamage] = {
        name: partial(_box_number, box=box, offset=offset, layout=layout, values=values)
        for name, (box, offset, layout, values) in numbers.items()
    }
    sizes = {"to its own end": 0, "of no content": 8, "shorter than its header": 4, "2 GB long": 2**31 - 1}
    for words, size in sizes.items():
        for box in (b"moov", b"trak", b"stbl", b"mdat"):
            kinds[f"an MP4 box {box.decode()} {words}"] = partial(_box_size, box=box, size=size)
    return kinds | {"MP4 boxes within boxes, 20,000 deep": _nested_boxes, "10,000 MP4 tracks": _many_tracks}


def _box_number(
    data: bytes, format: MediaFormat, _: Random, *, box: bytes, offset: int, layout: str, values: tuple[int, ...]
) -> bytes | None:
    if format.name not in _ISO:
        return None
    try:
        start, end = find_box(data, box)
    except ValueError:
        return None
    piece = struct.pack(layout, *values)
    if start + offset + len(piece) > end:
        return None
    return data[: start + offset] + piece + data[start + offset + len(piece) :]


def _box_size(data: bytes, format: MediaFormat, _: Random, *, box: bytes, size: int) -> bytes | None:
    if format.name not in _ISO or box not in data:
        return None
    start = find_box(data, box)[0] - 8
    return data[:start] + size.to_bytes(4, "big") + data[start + 4 :]


def _nested_boxes(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name != "mp4":
        return None
    nested = b"".join((8 * (20_000 - level)).to_bytes(4, "big") + b"moov" for level in range(20_000))
    return data[: int.from_bytes(data[:4], "big")] + nested


def _many_tracks(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name != "mp4_index_first":
        return None
    (start, end), (first, last) = find_box(data, b"moov"), find_box(data, b"trak")
    track = data[first - 8 : last]
    movie = data[start:end] + track * 10_000
    return data[: start - 8] + (8 + len(movie)).to_bytes(4, "big") + b"moov" + movie + data[end:]


def _of_elements() -> dict[str, FileDamage]:
    contents: dict[str, tuple[str, bytes]] = {
        "a Matroska file of NaN seconds": ("Duration", struct.pack(">d", float("nan"))),
        "a Matroska file of -1 seconds": ("Duration", struct.pack(">d", -1.0)),
        "a Matroska file of 1e300 seconds": ("Duration", struct.pack(">d", 1e300)),
        "a Matroska file of no time scale": ("TimestampScale", bytes(3)),
        "a Matroska picture of no width": ("PixelWidth", b"\0"),
        "a Matroska picture that is wide": ("PixelWidth", b"\xff"),
    }
    kinds: dict[str, FileDamage] = {
        name: partial(_element, element=element, content=content) for name, (element, content) in contents.items()
    }
    for element in ("Tracks", "Cluster", "Segment"):
        for words, size in (("of unknown length", b"\xff"), ("of no length", b"\x80"), ("as long as can be", b"\xfe")):
            kinds[f"a Matroska {element.lower()} {words}"] = partial(_element_size, element=element, size=size)
    return kinds


def _element_at(data: bytes, element: str) -> tuple[int, int]:
    """Where the length of an element begins, and of how many bytes it is."""
    at = data.index(_ELEMENTS[element]) + len(_ELEMENTS[element])
    return at, 9 - data[at].bit_length()


def _element(data: bytes, format: MediaFormat, _: Random, *, element: str, content: bytes) -> bytes | None:
    if format.name not in _EBML or _ELEMENTS[element] not in data:
        return None
    at, length = _element_at(data, element)
    start = at + length
    return data[:start] + content + data[start + len(content) :]


def _element_size(data: bytes, format: MediaFormat, _: Random, *, element: str, size: bytes) -> bytes | None:
    if format.name not in _EBML:
        return None
    at, length = _element_at(data, element)
    # The same value in as many bytes: all ones is "unknown", the largest number one less.
    ones = (1 << 7 * length) - 1
    value = {b"\xff": ones, b"\x80": 0, b"\xfe": ones - 1}[size] | 1 << 7 * length
    return data[:at] + value.to_bytes(length, "big") + data[at + length :]


def _of_avi() -> dict[str, FileDamage]:
    # Offsets from the content of `avih` and `strh`; the AVI RIFF file reference.
    numbers: dict[str, tuple[bytes, int, tuple[int, ...]]] = {
        "an AVI of no frames": (b"avih", 16, (0,)),
        "an AVI of 4 billion frames": (b"avih", 16, (_LARGEST,)),
        "an AVI of no streams": (b"avih", 24, (0,)),
        "an AVI of 65535 x 65535": (b"strf", 4, (65_535, 65_535)),
        "an AVI of no rate": (b"strh", 20, (0, 0)),
        "an AVI track of 4 billion frames": (b"strh", 32, (_LARGEST,)),
        "an AVI index of 4 GB": (b"idx1", -4, (_LARGEST,)),
        "an AVI index of places behind the end": (b"idx1", 8, (_LARGEST, _LARGEST)),
        "an AVI list of no length": (b"movi", -4, (0,)),
    }
    return {
        name: partial(_avi_number, chunk=chunk, offset=at, values=new) for name, (chunk, at, new) in numbers.items()
    }


def _avi_number(
    data: bytes, format: MediaFormat, _: Random, *, chunk: bytes, offset: int, values: tuple[int, ...]
) -> bytes | None:
    if format.name != "avi":
        return None
    at = data.index(chunk) + (8 if chunk != b"movi" else 0) + offset
    piece = struct.pack(f"<{len(values)}I", *values)
    return data[:at] + piece + data[at + len(piece) :]


def _of_frames() -> dict[str, FileDamage]:
    specs: Mapping[str, Callable[[VideoSpec], VideoSpec]] = {
        "no frames": lambda spec: _with(spec, num_frames=0),
        "one frame": lambda spec: _with(spec, num_frames=1),
        "frames of 2 x 2": lambda spec: _with(spec, width=2, height=2, num_frames=2),
        "frames of 4096 x 2": lambda spec: _with(spec, width=4096, height=2, num_frames=2),
        "500 frames": lambda spec: _with(spec, width=16, height=16, num_frames=500, gop=100),
        "a frame an hour": lambda spec: _with(spec, rate=Fraction(1, 3600), num_frames=3),
        "1,000 frames a second": lambda spec: _with(spec, rate=Fraction(1000), num_frames=10),
    }
    return {name: partial(_encoded, change=change) for name, change in specs.items()}


def _with(spec: VideoSpec, **fields: object) -> VideoSpec:
    from dataclasses import replace

    return replace(spec, **fields)  # type: ignore[arg-type]


def _encoded(_: bytes, format: MediaFormat, __: Random, *, change: Callable[[VideoSpec], VideoSpec]) -> bytes | None:
    """A video of another kind, where the format and its codec allow for it."""
    if format.name not in _MUXERS:
        return None
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(format.name, "libx264")
    b_frames = 0 if format.name == "avi" else 2
    spec = VideoSpec(num_frames=6, width=64, height=48, format=_MUXERS[format.name], codec=codec, b_frames=b_frames)
    try:
        return encode_video(change(spec))
    except (OSError, ValueError):  # what the encoder does not take
        return None


def _shuffled_packets(data: bytes, format: MediaFormat, random: Random) -> bytes | None:
    """The packets of a transport stream, each of 188 bytes, in another order."""
    if format.name != "mpegts":
        return None
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    random.shuffle(packets)
    return b"".join(packets)
