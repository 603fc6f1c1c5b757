"""Audio whose headers lie, that has no samples, or whose samples are no numbers."""

from __future__ import annotations

import struct
from functools import partial
from random import Random

import numpy as np

from mmdatasets.testing.audio import encode_audio, make_audio
from mmdatasets.testing.damage.contents import FileDamage
from mmdatasets.testing.damage.formats import RATE, MediaFormat

_LARGEST = 0xFFFFFFFF
_FORMATS = {"wav": "wav", "wav_float": "wav_float", "flac": "flac", "ogg": "ogg", "m4a": "m4a", "mp3": "mp3"}


def audio_damage() -> dict[str, FileDamage]:
    """Name -> damage; `None` of it where a format has no such field."""
    # Offsets from the content of a chunk; the layouts are struct's.
    wav: dict[str, tuple[bytes, int, str, tuple[int, ...]]] = {
        "a WAV of no length": (b"data", -4, "<I", (0,)),
        "a WAV of 4 GB": (b"data", -4, "<I", (_LARGEST - 1,)),
        "a WAV of unknown length": (b"data", -4, "<I", (_LARGEST,)),
        "a WAV of half its length": (b"data", -4, "<I", (3_999,)),
        "a WAV of no channels": (b"fmt ", 2, "<H", (0,)),
        "a WAV of 65,535 channels": (b"fmt ", 2, "<H", (65_535,)),
        "a WAV of no rate": (b"fmt ", 4, "<I", (0,)),
        "a WAV of 4 GHz": (b"fmt ", 4, "<I", (_LARGEST,)),
        "a WAV of 1 Hz": (b"fmt ", 4, "<I", (1,)),
        "a WAV of no block size": (b"fmt ", 12, "<H", (0,)),
        "a WAV of no bits": (b"fmt ", 14, "<H", (0,)),
        "a WAV of 7 bits": (b"fmt ", 14, "<H", (7,)),
        "a WAV of 65,535 bits": (b"fmt ", 14, "<H", (65_535,)),
        "a WAV of an unknown coding": (b"fmt ", 0, "<H", (0x7777,)),
        "a WAV of ADPCM": (b"fmt ", 0, "<H", (2,)),
        "a WAV whose description is 4 GB long": (b"fmt ", -4, "<I", (_LARGEST,)),
    }
    # Offsets from the block STREAMINFO; RFC 9639, section 8.2.
    flac: dict[str, tuple[int, bytes]] = {
        "a FLAC of no samples": (13, b"\xf0\0\0\0\0"),
        "a FLAC of 2^36 samples": (13, b"\xff\xff\xff\xff\xff"),
        "a FLAC of no rate": (10, b"\0\0\0"),
        "a FLAC of 655,350 Hz": (10, b"\x9f\xff\x60"),
        "a FLAC of blocks of one sample": (0, b"\0\1\0\1"),
        "a FLAC of another checksum": (18, bytes(range(16))),
    }
    kinds: dict[str, FileDamage] = {}
    for name, (chunk, offset, layout, values) in wav.items():
        kinds[name] = partial(_wav_number, chunk=chunk, offset=offset, piece=struct.pack(layout, *values))
    for name, (offset, piece) in flac.items():
        kinds[name] = partial(_flac_number, offset=offset, piece=piece)
    pages = {"at the end of time": 2**63 - 1, "before the beginning": 2**64 - 500, "at one time": 0}
    kinds |= {f"Ogg pages {name}": partial(_ogg_times, time=time) for name, time in pages.items()}
    samples = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf, "a million": 1e6, "the largest": 3.4e38}
    kinds |= {f"a sample that is {name}": partial(_with_sample, value=value) for name, value in samples.items()}
    return kinds | {
        "NaN only": partial(_all_of, value=np.nan),
        "no samples": partial(_of_length, num_samples=0),
        "one sample": partial(_of_length, num_samples=1),
        "two minutes of silence": partial(_of_length, num_samples=120 * RATE, silent=True),
        "an MP3 that says it has 4 billion frames": _xing,
    }


def _wav_number(
    data: bytes, format: MediaFormat, _: Random, *, chunk: bytes, offset: int, piece: bytes
) -> bytes | None:
    if format.name not in ("wav", "wav_float"):
        return None
    at = data.index(chunk) + 8 + offset
    return data[:at] + piece + data[at + len(piece) :]


def _flac_number(data: bytes, format: MediaFormat, _: Random, *, offset: int, piece: bytes) -> bytes | None:
    if format.name != "flac":
        return None
    at = 8 + offset
    return data[:at] + piece + data[at + len(piece) :]


def _ogg_times(data: bytes, format: MediaFormat, _: Random, *, time: int) -> bytes | None:
    if format.name not in ("ogg", "opus"):
        return None
    first, *pages = data.split(b"OggS")
    return first + b"".join(
        b"OggS" + page[:2] + struct.pack("<Q", time) + _summed(page[10:], page[:2], time) for page in pages
    )


def _summed(rest: bytes, head: bytes, time: int) -> bytes:
    """The rest of a page, its checksum made anew; RFC 3533."""
    blank = rest[:8] + bytes(4) + rest[12:]
    register = 0
    for byte in b"OggS" + head + struct.pack("<Q", time) + blank:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1 ^ (0x04C11DB7 if register & 0x80000000 else 0)) & _LARGEST
    return rest[:8] + struct.pack("<I", register) + rest[12:]


def _with_sample(_: bytes, format: MediaFormat, random: Random, *, value: float) -> bytes | None:
    if format.name != "wav_float":
        return None
    samples = make_audio(RATE, 2_000)
    samples[0, random.randrange(2_000)] = value
    return encode_audio(samples, RATE, format.name)


def _all_of(_: bytes, format: MediaFormat, __: Random, *, value: float) -> bytes | None:
    if format.name != "wav_float":
        return None
    return encode_audio(np.full((1, 2_000), value, np.float32), RATE, format.name)


def _of_length(_: bytes, format: MediaFormat, __: Random, *, num_samples: int, silent: bool = False) -> bytes | None:
    if format.name not in _FORMATS or (silent and format.name != "flac"):
        return None
    samples = np.zeros((1, num_samples), np.float32) if silent else make_audio(RATE, num_samples)
    return encode_audio(samples, RATE, _FORMATS[format.name])


def _xing(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name != "mp3":
        return None
    found = max(data.find(b"Xing"), data.find(b"Info"))
    return data[: found + 8] + b"\xff\xff\xff\xff" + data[found + 12 :] if found > 0 else None
