"""How many samples an audio stream decodes to, from its packets, and getting near a point of it without decoding.

What headers say is not used for counting: that of an m4a is hundreds of samples short.
"""

from __future__ import annotations

import contextlib
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

import av

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.limits import check_num_samples
from mmdatasets.media.mp3 import frame_format, id3_length
from mmdatasets.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet

    from mmdatasets.options import MediaOptions

    CountSamples = Callable[[Packet[AudioStream]], int]

# Codecs of which every packet gives as many samples as any other, but for what is cut at the start and the end.
_FIXED_FRAMES = ("aac", "ac3", "eac3", "mp2", "mp2float", "mp3", "mp3float")
_MP3 = ("mp3", "mp3float")
_UNTOUCHED_END = 3  # packets at the end that are decoded: what is cut there, and damage, shows in their frames
_SEEK_FROM_S = 2.0
_RUN_UP_S = 0.5  # decoded before the point sought: decoders overlap frames, and some remember more than one


def decode_frames(container: InputContainer, stream: AudioStream, *, is_lenient: bool = False) -> Iterator[AudioFrame]:
    """Decodes a stream from where its container stands.

    Args:
        container: The open file.
        stream: The stream.
        is_lenient: Whether packets that cannot be decoded are left out, and what cannot be read is the end.

    Yields:
        Frames of one rate and number of channels.

    Raises:
        MediaDecodeError: Either of them changes.
    """
    first: AudioFrame | None = None
    for packet in _lenient_packets(container, stream) if is_lenient else container.demux(stream):
        for frame in _decode_lenient(packet) if is_lenient else _decode(packet):
            first = first or frame
            _check_alike(first, frame)
            yield frame


def _lenient_packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
    with contextlib.suppress(av.FFmpegError):
        yield from container.demux(stream)


def _decode_lenient(packet: Packet[AudioStream]) -> list[AudioFrame]:
    try:
        return _decode(packet)
    except av.FFmpegError:
        return []


def _decode(packet: Packet[AudioStream]) -> list[AudioFrame]:
    """The frames of a packet.

    Where MP3 files are joined, FFmpeg gives the tag that the later one begins with and its first frame in one packet,
    which its own decoder then refuses.
    """
    context = packet.stream.codec_context
    tag = id3_length(bytes(memoryview(packet)[:10])) if packet.size and context.name in _MP3 else 0
    if not 0 < tag < packet.size:
        return packet.decode()
    rest = av.Packet(bytes(packet)[tag:])
    rest.time_base, rest.pts, rest.dts = packet.time_base, packet.pts, packet.dts
    return context.decode(rest)


def _check_alike(first: AudioFrame, frame: AudioFrame) -> None:
    rate, num_channels = first.sample_rate, first.layout.nb_channels
    if frame.sample_rate != rate or frame.layout.nb_channels != num_channels:
        raise MediaDecodeError(
            f"the audio changes from {num_channels} channels at {rate} Hz to {frame.layout.nb_channels} at "
            f"{frame.sample_rate} Hz, {frame.time or 0:.2f} s from its start; convert it"
        )


def count_samples(
    container: InputContainer, stream: AudioStream, options: MediaOptions, source: str
) -> AudioInfo | None:
    """Finds what decoding a stream gives, the container being at its start.

    Where every packet gives a known number of samples, only the first few and the last few are decoded: the former
    show the true rate and channels (the header of HE-AAC states half of either), and both what is cut off as padding.
    Of MP3, those are decoded, too, that do not say the same of themselves as the first one. Anything else is decoded.

    Args:
        container: The open file.
        stream: The stream.
        options: `audio_sample_limit` is used.
        source: Description for errors.

    Returns:
        Rate, channels, number of samples and when they start; `None` where there are none.

    Raises:
        MediaDecodeError: Rate or channels change.
        MediaLimitError: So many samples were counted that there are more than the limit.
    """
    packets = container.demux(stream)
    first, steady, count = _decode_start(packets)
    if first is None:
        return None
    decoding = _decoding(first)
    samples_of = _samples_by_packet(stream.codec_context.name, steady, decoding)
    # In Ogg another stream may follow, with padding of its own where the first one ends.
    if samples_of is None or container.format.name == "ogg":
        samples_of = decoding
    for counted in _count_rest(packets, samples_of, decoding):
        count += counted
        check_num_samples(count, options, source)
    rate = first.sample_rate
    stated = round(stream.duration * stream.time_base * rate) if stream.duration and stream.time_base else None
    return AudioInfo(rate, first.layout.nb_channels, count, first.time or 0.0, stated)


def count_decoded(
    container: InputContainer, stream: AudioStream, options: MediaOptions, source: str
) -> AudioInfo | None:
    """Finds what decoding a stream gives where packets that cannot be decoded are left out; see `count_samples`."""
    first, count = None, 0
    for frame in decode_frames(container, stream, is_lenient=True):
        first = first or frame
        count += frame.samples
        check_num_samples(count, options, source)
    if first is None:
        return None
    return AudioInfo(first.sample_rate, first.layout.nb_channels, count, first.time or 0.0)


def _decoding(first: AudioFrame) -> CountSamples:
    """Counts the samples of a packet by decoding it."""

    def count(packet: Packet[AudioStream]) -> int:
        frames = _decode(packet)
        for frame in frames:
            _check_alike(first, frame)
        return sum(frame.samples for frame in frames)

    return count


def seek_near(container: InputContainer, stream: AudioStream, start_s: float) -> int | None:
    """Puts a container shortly before a time, where that can be done exactly.

    That is MP4 with AAC, whose timestamps are numbers of samples. Elsewhere timestamps are rounded (Matroska), or
    there is no index to find a packet by (ADTS, MP3).

    Returns:
        The timestamp of the stream's first sample, the unit being one sample; `None` where the container is still at
        its start.
    """
    if start_s < _SEEK_FROM_S or stream.time_base is None or not _counts_samples(container, stream):
        return None
    frame = next(container.decode(stream), None)
    if frame is None or frame.pts is None:
        container.seek(0)
        return None
    container.seek(frame.pts + round((start_s - _RUN_UP_S) / stream.time_base), stream=stream, backward=True)
    return frame.pts


def _counts_samples(container: InputContainer, stream: AudioStream) -> bool:
    """Whether a stream's timestamps are the numbers of its samples, without a gap."""
    context = stream.codec_context
    if context.name != "aac" or "mp4" not in container.format.name.split(","):
        return False
    if stream.time_base != Fraction(1, context.sample_rate) or not stream.duration or not context.frame_size:
        return False
    # A gap would make the stream longer than its frames are.
    return bool(abs(stream.frames * context.frame_size - stream.duration) <= 3 * context.frame_size)


def _decode_start(packets: Iterator[Packet[AudioStream]]) -> tuple[AudioFrame | None, int, int]:
    """Decodes until two frames in a row are equally long: the first one, that length, and all samples so far."""
    first, length, count = None, 0, 0
    for packet in packets:
        frames = _decode(packet)
        count += sum(frame.samples for frame in frames)
        for frame in frames:
            first = first or frame
            _check_alike(first, frame)
            if frame.samples == length:
                return first, length, count
            length = frame.samples
    return first, length, count


def _count_rest(
    packets: Iterator[Packet[AudioStream]], samples_of: CountSamples, decoding: CountSamples
) -> Iterator[int]:
    """The samples of each of the packets that are left."""
    waiting: deque[Packet[AudioStream]] = deque()
    for packet in packets:
        waiting.append(packet)
        if len(waiting) > _UNTOUCHED_END + 1:  # one more: the last is empty and flushes the decoder
            passed = waiting.popleft()
            yield 0 if passed.is_discard else samples_of(passed)
    yield from map(decoding, waiting)


def _samples_by_packet(codec: str, steady: int, decoding: CountSamples) -> CountSamples | None:
    if codec in _MP3:
        return _mp3_samples(steady, decoding)
    if codec in _FIXED_FRAMES:
        return lambda packet: steady
    return _opus_samples if codec == "opus" else None


def _mp3_samples(steady: int, decoding: CountSamples) -> CountSamples:
    """Counts by decoding what is no frame like the first one: where files were joined, or the file is damaged."""
    expected: tuple[int, int, bool] | None = None

    def count(packet: Packet[AudioStream]) -> int:
        nonlocal expected
        found = frame_format(bytes(memoryview(packet)[:4]))
        expected = expected or found
        return steady if found is not None and found == expected else decoding(packet)

    return count


def _opus_samples(packet: Packet[AudioStream]) -> int:
    """Samples at 48 kHz in an Opus packet, by its first byte or two; RFC 6716, section 3.1 and 3.2."""
    data = memoryview(packet)
    config, code = data[0] >> 3, data[0] & 3
    if config < 12:
        each = (480, 960, 1920, 2880)[config % 4]
    elif config < 16:
        each = (480, 960)[config % 2]
    else:
        each = (120, 240, 480, 960)[config % 4]
    return each * ((data[1] & 0x3F) if code == 3 else (1, 2, 2)[code])
