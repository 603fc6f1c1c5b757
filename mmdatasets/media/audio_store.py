"""Storing audio without losing anything that decoding would give."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.media.audio_arrays import RawAudio, decoder_source, is_audio_decoder, read_raw_audio
from mmdatasets.media.source import to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.types import StoredMedia

if TYPE_CHECKING:
    import numpy.typing as npt

_FULL_SCALE = 2**15
_SAMPLES = "samples"
_SUBTYPES = {"float32": "FLOAT", "int16": "PCM_16", "int32": "PCM_32"}


def audio_to_stored(reference: object) -> StoredMedia:
    """Makes the struct in which Arrow stores an audio reference: that of `datasets.Audio(decode=False)`.

    Paths and URLs stay references, and bytes, file objects and `data:` URIs are stored as bytes, as
    `mmdatasets.media.source.to_stored` does it. Samples are stored as WAV files with all channels, integers as they
    are and floats as 32-bit floats, so that `decode_audio` gives the same for what is stored as for what was given.
    Decoder objects of `datasets` are stored as the file that they were made of, others as samples.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.AudioReference`.

    Raises:
        MediaReferenceError: The value is no audio reference.
        MediaDecodeError: There are no samples.
    """
    if is_audio_decoder(reference):
        encoded = decoder_source(reference, MediaOptions())  # who made it opened the file
        if encoded is not None:
            return to_stored(encoded)
    raw = read_raw_audio(reference)
    return to_stored(reference) if raw is None else StoredMedia(bytes=_wav(raw), path=None)


def write_samples(samples: npt.NDArray[np.float32], sampling_rate: int, *, exact: bool = True) -> bytes:
    """Writes mono audio as WAV. The same samples give the same bytes.

    Args:
        samples: `(num_samples,)`, full scale being 1.
        sampling_rate: Samples per second.
        exact: Whether `decode_audio` is to give these very samples: as 16-bit integers where they all are such, else
            as 32-bit floats. Otherwise they are rounded to 16 bits, and what exceeds full scale is clipped.
    """
    scaled = samples * np.float32(_FULL_SCALE)
    rounded = np.clip(np.rint(scaled), -_FULL_SCALE, _FULL_SCALE - 1)
    if exact and not np.array_equal(rounded, scaled):
        return _wav(RawAudio(samples[None], sampling_rate, _SAMPLES))
    return _wav(RawAudio(rounded.astype(np.int16)[None], sampling_rate, _SAMPLES))


def _wav(raw: RawAudio) -> bytes:
    import soundfile

    samples: npt.NDArray[np.generic] = raw.samples
    if samples.dtype.kind == "f":
        samples = raw.to_float()
    elif samples.dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128) * 256  # the same values, in a type that soundfile takes
    subtype = _SUBTYPES[samples.dtype.name]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.ascontiguousarray(samples.T), raw.sampling_rate, format="WAV", subtype=subtype)
    return _without_time(buffer.getvalue()) if subtype == "FLOAT" else buffer.getvalue()


def _without_time(wav: bytes) -> bytes:
    """Clears the time of writing, which libsndfile puts into files of floats: equal samples give equal bytes."""
    peak = wav.find(b"PEAK", 0, wav.index(b"data"))
    if peak < 0:
        return wav
    time = peak + 12  # behind the chunk's name, size and version
    return wav[:time] + bytes(4) + wav[time + 4 :]
