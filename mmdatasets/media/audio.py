"""Audio: what it decodes to, and decoding it to mono at the rate that a model takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar, cast

import numpy as np

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.audio_arrays import check_rate, decoder_source, is_audio_decoder, read_raw_audio
from mmdatasets.media.audio_complete import check_complete, ends_early
from mmdatasets.media.audio_plan import no_samples, sample_bounds, sample_range
from mmdatasets.media.bounded import is_bounded, run_bounded
from mmdatasets.media.limits import check_num_samples
from mmdatasets.media.source import describe_source, reading
from mmdatasets.media.waveform import resample, resampled_length, to_mono

if TYPE_CHECKING:
    from mmdatasets.media.waveform import Waveform
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import AudioInfo


T = TypeVar("T")


class AudioFileReader(Protocol):
    """What decodes audio files. Files are given at their first byte."""

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Finds what `read` would give, by the cheapest exact way."""
        ...

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        ...


def probe_audio(reference: object, options: MediaOptions) -> AudioInfo:
    """Finds what audio decodes to.

    Headers are read where they are right. Where they are not, or say nothing (m4a, sound tracks of videos, mp3 without
    a Xing header), packets are counted, and only where that would not be exact, everything is decoded.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.AudioReference`. Of a video it is the sound
            track that FFmpeg takes for the best one. A decoder object of `datasets` is read from the file that it was
            made of, at that file's own rate; one of torchcodec is decoded.
        options: `audio_backend`, the limits, and what says where media may be read from are used.

    Returns:
        Rate, channels and number of samples as `decode_audio` will find them before it mixes down and resamples.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no audio reference, or is an array without a sampling rate.
        MediaDecodeError: The file has no sound that can be decoded, has no samples, or is found to be cut off.
        MediaLimitError: It has more bytes than `byte_limit`, or more samples than `audio_sample_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`.
        MissingExtraError: The backend of the options is not installed.
    """
    reference = _undecoded(reference, options)
    raw = read_raw_audio(reference)
    if raw is not None:
        return raw.info
    if is_bounded(reference, options):
        return cast("AudioInfo", run_bounded("probe_audio", reference, options=options))
    source = describe_source(reference)
    with reading(reference, options) as file:
        info = _read(file, options, source, lambda reader: reader.probe(file, source))
    if info.num_samples == 0:
        raise no_samples(source=source)
    return info


def decode_audio(
    reference: object,
    options: MediaOptions,
    sampling_rate: int,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Waveform:
    """Decodes audio to mono at a sampling rate.

    The channels are averaged, then resampled: what `librosa.load` gives. For files that soundfile reads this is,
    sample for sample, `transformers.audio_utils.load_audio(backend="soundfile")`. The sound track of a video starts
    with its first sample, whenever that is to be heard, as it does for transformers and librosa: nothing is padded or
    cut for where the frames start.

    Args:
        reference: As for `probe_audio`.
        options: As for `probe_audio`, and `audio_resampler`.
        sampling_rate: Samples per second wanted.
        start_s: Seconds at which to start, rounded to the nearest sample of the file.
        end_s: Seconds at which to end, likewise; the end of the audio when `None`, or when that comes first. What lies
            outside is cut off before resampling. What comes before is not decoded where a format can be sought in
            exactly: WAV, FLAC, Ogg, AIFF, and AAC in MP4, not MP3.

    Returns:
        `(planned_num_samples(info, options, sampling_rate, start_s=start_s, end_s=end_s),)`, all of them finite.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no audio reference, or is an array without a sampling rate.
        MediaDecodeError: The file has no sound that can be decoded, is damaged or cut off, has no samples between
            `start_s` and `end_s`, or has samples that are not finite.
        MediaLimitError: It has more bytes than `byte_limit`, or more samples than `audio_sample_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`.
        MissingExtraError: The backend or resampler of the options is not installed.
        ValueError: `start_s` and `end_s` are no range.
    """
    check_rate(sampling_rate)
    sample_bounds(1, start_s, end_s)
    reference = _undecoded(reference, options)
    source = describe_source(reference)
    raw = read_raw_audio(reference)
    if raw is None and is_bounded(reference, options):
        found = run_bounded(
            "decode_audio", reference, options=options, sampling_rate=sampling_rate, start_s=start_s, end_s=end_s
        )
        return cast("Waveform", found)
    try:
        if raw is not None:
            start, end = sample_range(raw.info, start_s, end_s)
            samples, rate = to_mono(raw.to_float(start, end)), raw.sampling_rate
        else:
            with reading(reference, options) as file:
                samples, rate = _read(file, options, source, lambda reader: reader.read(file, source, start_s, end_s))
        _check_samples(samples, start_s)
        length = resampled_length(len(samples), rate, sampling_rate, options.audio_resampler)
        check_num_samples(length, options, source)
        return resample(samples, rate, sampling_rate, options.audio_resampler)
    except MediaError as error:
        raise error.at(source=source) from error.__cause__


def _read(file: BinaryIO, options: MediaOptions, source: str, work: Callable[[AudioFileReader], T]) -> T:
    """Reads a file, or what there is of it where `allow_truncated`."""
    from mmdatasets.media.audio_pyav import PyAVReader

    reader, last_resort = _reader(options), PyAVReader(options, is_lenient=True)
    if options.allow_truncated and ends_early(file):
        return work(last_resort)
    check_complete(file, options, source)
    try:
        return work(reader)
    except MediaDecodeError:
        if not options.allow_truncated:
            raise
    file.seek(0)
    return work(last_resort)


def _undecoded(reference: object, options: MediaOptions) -> object:
    """The file that a decoder object of `datasets` reads; any other reference as it is."""
    if is_audio_decoder(reference):
        encoded = decoder_source(reference, options)
        return reference if encoded is None else encoded
    return reference


def _check_samples(samples: Waveform, start_s: float) -> None:
    if len(samples) == 0:
        raise no_samples(start_s)
    finite = np.isfinite(samples)
    if not finite.all():
        raise MediaDecodeError(
            f"the audio has samples that are not finite: {np.count_nonzero(~finite):,} of {len(samples):,} are NaN or "
            f"infinite, the first is sample {int(np.argmin(finite)):,}"
        )


def _reader(options: MediaOptions) -> AudioFileReader:
    if options.audio_backend == "soundfile":
        from mmdatasets.media.audio_soundfile import SoundfileReader

        return SoundfileReader(options)
    if options.audio_backend == "pyav":
        from mmdatasets.media.audio_pyav import PyAVReader

        return PyAVReader(options)
    from mmdatasets.media.audio_torchcodec import TorchcodecReader

    return TorchcodecReader(options)
