"""What reads media: given mutated files, it gives a result that holds, or one of its documented errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from mmdatasets.errors import MediaError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.damage import DAMAGE_KINDS, MediaFormat, media_formats
from mmdatasets.types import FramePlan, Modality
from tests.fuzz.driver import Targets

NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
)
HEAD = 256
DECODED = 0.1  # of the inputs, where the probe finds something
OPTIONS = MediaOptions(image_pixel_limit=4_000_000)  # so that no time goes into blank canvases


def mutated(random: Random, modality: Modality) -> bytes:
    """A valid file of any format of a modality, changed here and there, most often in its head."""
    format = random.choice([own for own in media_formats() if own.modality == modality])
    data = bytearray(_lied_about(random, format) if random.random() < 0.3 else format.valid)
    for _ in range(random.choice((1, 1, 2, 4, 8, 32))):
        if data:
            random.choice(CHANGES)(random, data, modality)
    return bytes(data)


def _lied_about(random: Random, format: MediaFormat) -> bytes:
    kind = random.choice(_kinds_for(format))
    return kind(format.valid, format, random) or format.valid


@cache
def _kinds_for(format: MediaFormat) -> Sequence[Callable[[bytes, MediaFormat, Random], bytes | None]]:
    """The structured lies that the format can be told, but for large ones."""
    kinds = [kind.of_file for kind in DAMAGE_KINDS.values() if kind.of_file is not None]
    made = [(kind, kind(format.valid, format, Random(0))) for kind in kinds]
    return [kind for kind, data in made if data is not None and len(data) < 50_000]


def _place(random: Random, data: bytearray) -> int:
    return random.randrange(min(len(data), HEAD) if random.random() < 0.6 else len(data))


def flip(random: Random, data: bytearray, _: Modality) -> None:
    """Flips a bit."""
    data[_place(random, data)] ^= 1 << random.randrange(8)


def overwrite(random: Random, data: bytearray, _: Modality) -> None:
    """Writes a byte."""
    data[_place(random, data)] = random.randrange(256)


def write_number(random: Random, data: bytearray, _: Modality) -> None:
    """Writes a number such as sizes and counts are wrong by."""
    at, length = _place(random, data), random.choice((1, 2, 3, 4, 8))
    number = random.choice(NUMBERS) & (1 << 8 * length) - 1
    data[at : at + length] = number.to_bytes(length, random.choice(("big", "little")))


def cut(random: Random, data: bytearray, _: Modality) -> None:
    """Cuts the end off."""
    del data[_place(random, data) :]


def delete(random: Random, data: bytearray, _: Modality) -> None:
    """Takes a piece out."""
    at = _place(random, data)
    del data[at : at + random.choice((1, 2, 4, 8, 100))]


def insert(random: Random, data: bytearray, _: Modality) -> None:
    """Puts noise, or zeros, in."""
    at, length = _place(random, data), random.choice((1, 2, 4, 8, 100))
    data[at:at] = random.randbytes(length) if random.random() < 0.5 else bytes(length)


def repeat(random: Random, data: bytearray, _: Modality) -> None:
    """Repeats a piece."""
    start, end = sorted((_place(random, data), _place(random, data)))
    data[end:end] = data[start:end][:5_000]


def exchange(random: Random, data: bytearray, _: Modality) -> None:
    """Exchanges two pieces."""
    first, second = sorted((_place(random, data), _place(random, data)))
    length = min(random.choice((4, 8, 16, 64)), second - first, len(data) - second)
    piece = data[first : first + length]
    data[first : first + length] = data[second : second + length]
    data[second : second + length] = piece


def splice(random: Random, data: bytearray, _: Modality) -> None:
    """Goes on with a piece of a file of another format."""
    other = random.choice(media_formats()).valid
    start = random.randrange(len(other))
    data[_place(random, data) :] = other[start : start + 20_000]


CHANGES = (flip, flip, overwrite, write_number, write_number, cut, delete, insert, repeat, exchange, splice)


def try_image(random: Random) -> str:
    """An image."""
    data = mutated(random, _modality(random, "image"))
    try:
        info = probe_image(data, OPTIONS)
        assert 0 < info.width * info.height <= OPTIONS.image_pixel_limit
        if random.random() > DECODED:
            return "result"
        assert decode_image(data, OPTIONS).shape == (3, info.height, info.width)
    except MediaError as error:
        return type(error).__name__
    return "decoded"


def try_video(random: Random) -> str:
    """A video."""
    data = mutated(random, _modality(random, "video"))
    try:
        info = probe_video(data, OPTIONS)
        assert 0 < info.width * info.height <= OPTIONS.image_pixel_limit
        assert info.num_frames > 0
        times = info.timestamps_s
        assert times is None or (
            len(times) == info.num_frames and np.isfinite(times).all() and (np.diff(times) >= 0).all()
        )
        if random.random() > DECODED:
            return "result"
        last = info.num_frames - 1
        plan = FramePlan((0, last), None if times is None else (float(times[0]), float(times[last])))
        assert decode_frames(data, plan, OPTIONS).shape == (2, 3, info.height, info.width)
    except MediaError as error:
        return type(error).__name__
    return "decoded"


def try_audio(random: Random) -> str:
    """Audio, or the sound track of a video."""
    data = mutated(random, _modality(random, "audio"))
    try:
        info = probe_audio(data, OPTIONS)
        assert info.num_samples > 0
        assert info.sampling_rate > 0
        if random.random() > DECODED:
            return "result"
        assert np.isfinite(decode_audio(data, OPTIONS, 16_000)).all()
    except MediaError as error:
        return type(error).__name__
    return "decoded"


def _modality(random: Random, own: Modality) -> Modality:
    return random.choice(("image", "video", "audio")) if random.random() < 0.1 else own


TARGETS: Targets = {"image": (try_image, 40), "video": (try_video, 30), "audio": (try_audio, 30)}


def probe_targets(_: Path) -> Targets:
    """The targets, whatever the folder."""
    return TARGETS
