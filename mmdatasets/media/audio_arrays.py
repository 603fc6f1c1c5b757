"""Audio that is decoded already: arrays with a sampling rate, and decoder objects of torchcodec and `datasets`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Protocol, TypeGuard

import numpy as np

from mmdatasets.errors import MediaDecodeError, MediaError, MediaReferenceError
from mmdatasets.media.numbers import as_float, shown
from mmdatasets.media.source import describe_source, is_array, reading
from mmdatasets.options import MediaOptions
from mmdatasets.types import AudioInfo

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from mmdatasets.media.waveform import Waveform

_GIVE_RATE = (
    "audio samples need a sampling rate: give {'array': samples, 'sampling_rate': 16000}, with the rate that they have"
)
# dtype -> the value of silence, and of full scale above it: as libsndfile and FFmpeg read samples of these types.
_INTEGER_SCALES = {"uint8": (128.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}


class AudioSamplesLike(Protocol):
    """What `torchcodec.decoders.AudioDecoder.get_all_samples` gives."""

    data: torch.Tensor
    sample_rate: int


class AudioDecoderLike(Protocol):
    """An object like `torchcodec.decoders.AudioDecoder`, which `datasets` 4 and later decode an audio column to."""

    metadata: object

    def get_all_samples(self) -> AudioSamplesLike:
        """Decodes everything, `(num_channels, num_samples)`."""
        ...


@dataclass(frozen=True, slots=True)
class RawAudio:
    """Samples as they were given, with nothing checked but their shape and type.

    Attributes:
        samples: `(num_channels, num_samples)`, of a float type, uint8, int16 or int32.
        sampling_rate: Samples per second of each channel.
        source: Description for errors.
    """

    samples: npt.NDArray[np.generic]
    sampling_rate: int
    source: str

    @property
    def info(self) -> AudioInfo:
        """What the array holds."""
        num_channels, num_samples = self.samples.shape
        return AudioInfo(self.sampling_rate, num_channels, num_samples)

    def to_float(self, start: int = 0, end: int | None = None) -> Waveform:
        """The samples from `start` up to `end` as floats, `(num_channels, num_samples)`, full scale being 1."""
        samples = self.samples[:, start:end]
        if samples.dtype.kind == "f":
            with np.errstate(over="ignore"):  # becomes inf, which is refused later
                return samples.astype(np.float32)
        silence, scale = _INTEGER_SCALES[samples.dtype.name]
        return ((samples.astype(np.float64) - silence) / scale).astype(np.float32)


def read_raw_audio(reference: object) -> RawAudio | None:
    """Takes the samples out of a reference that holds them.

    Arrays are `(num_samples,)` or `(num_channels, num_samples)`. `(num_samples, num_channels)`, as soundfile gives it,
    is refused, since nothing tells the two apart but that audio has more samples than channels.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.AudioReference`.

    Returns:
        The samples, or `None` where the reference is one to a file, or is none.

    Raises:
        MediaReferenceError: The samples come without a rate, or in a shape or type that audio cannot have.
        MediaDecodeError: There are no samples.
    """
    source = describe_source(reference)
    if isinstance(reference, Mapping):
        array, rate = reference.get("array"), reference.get("sampling_rate")
        if array is None:
            return None
        if rate is None:
            raise MediaReferenceError(_GIVE_RATE, source=source)
        return _raw_audio(array, rate, source)
    if is_array(reference) or (isinstance(reference, (list, tuple)) and _is_numeric(reference)):
        raise MediaReferenceError(_GIVE_RATE, source=source)
    if is_audio_decoder(reference):
        try:
            decoded = reference.get_all_samples()
        except Exception as error:  # the decoder raises its library's own errors
            raise MediaDecodeError(f"the audio decoder object failed: {error}", source=source) from error
        return _raw_audio(decoded.data, decoded.sample_rate, source)
    return None


def is_audio_decoder(value: object) -> TypeGuard[AudioDecoderLike]:
    """Whether a value is a decoder like torchcodec's, without importing that."""
    return callable(getattr(value, "get_all_samples", None)) and hasattr(value, "metadata")


def decoder_source(decoder: AudioDecoderLike, options: MediaOptions) -> Mapping[str, object] | None:
    """The undecoded `{"path", "bytes"}` that `datasets` made a decoder object of.

    It is what `datasets` itself stores such an object as. `None` where the object comes from elsewhere, or was made
    for another stream of the file than the one that we would read.
    """
    encoded = getattr(decoder, "_hf_encoded", None)
    index = getattr(decoder, "stream_index", None)
    if not isinstance(encoded, Mapping) or not _is_best_stream(encoded, index, options):
        return None
    return encoded


def _is_best_stream(encoded: Mapping[str, object], index: object, options: MediaOptions) -> bool:
    from mmdatasets.media.audio_pyav import best_audio_index

    try:
        with reading(encoded, options) as file:
            return index is None or best_audio_index(file, options) in (None, index)
    except MediaError:
        return True  # reading it tells what is wrong


def _raw_audio(array: object, rate: object, source: str) -> RawAudio:
    samples = _to_numpy(array, source)
    if samples.ndim not in (1, 2):
        raise MediaReferenceError(
            f"audio samples must have the shape (num_samples,) or (num_channels, num_samples), got {samples.shape}",
            source=source,
        )
    samples = np.atleast_2d(samples)
    if samples.size == 0:
        raise MediaDecodeError("the audio has no samples", source=source)
    if samples.shape[0] > samples.shape[1]:
        raise MediaReferenceError(
            f"audio samples must have the shape (num_channels, num_samples), but {samples.shape} would be more "
            "channels than samples; transpose the array",
            source=source,
        )
    if samples.dtype.kind != "f" and samples.dtype.name not in _INTEGER_SCALES:
        raise MediaReferenceError(
            f"audio samples must be float, int16, int32 or uint8, got {samples.dtype}, which has no full scale; "
            "convert them to float between -1 and 1",
            source=source,
        )
    return RawAudio(samples, check_rate(rate, source), source)


def check_rate(rate: object, source: str | None = None) -> int:
    """A sampling rate as an integer; whole floats and the integers of numpy are taken, too.

    Raises:
        MediaReferenceError: It is no positive whole number.
    """
    number = as_float(rate)
    if 0 < number < math.inf and number.is_integer():
        return int(number)
    raise MediaReferenceError(f"a sampling rate must be a positive whole number, got {shown(rate)}", source=source)


def _to_numpy(array: object, source: str) -> npt.NDArray[np.generic]:
    if isinstance(array, np.ndarray):
        return array
    if is_array(array):
        import torch

        if isinstance(array, torch.Tensor):
            if array.is_meta:
                raise MediaReferenceError("a tensor on the meta device has no samples", source=source)
            tensor = array.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        return np.asarray(array)  # lists, as `datasets` gives them without a format
    except Exception as error:
        raise MediaReferenceError(f"'array' is no array of samples: {error}", source=source) from error


def _is_numeric(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, Real) for value in values[:1])
