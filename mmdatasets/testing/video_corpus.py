"""A catalogue of small synthetic videos that are each odd in their own way, and of files that are no videos."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import av
from av.stream import Disposition

from mmdatasets.testing.mp4_boxes import edit_mp4
from mmdatasets.testing.video import (
    VideoSpec,
    add_audio_track,
    add_video_track,
    encode_frames,
    encode_tone,
    encode_video,
    make_frame,
)

_OPEN_GOP = "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3"
_OPEN_HEVC = {"x265-params": f"log-level=none:{_OPEN_GOP}"}
_TIMES_S = tuple(0.02 * index + 0.03 * (index // 4) for index in range(40))
_INDEX_FIRST = {"movflags": "faststart"}
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@dataclass(frozen=True, slots=True)
class VideoSample:
    """A file of the corpus.

    Attributes:
        suffix: Of its name.
        make: Makes its bytes.
        numbers: Numbers that the frames carry, in the order in which they are shown; `None` where it is no video.
        size: Width and height as displayed, in pixels.
        has_audio: Whether there is a sound track.
        problem: Where it is no video: a pattern of what is wrong with it.
    """

    suffix: str
    make: Callable[[], bytes]
    numbers: Sequence[int] | None = range(40)
    size: tuple[int, int] = (112, 64)
    has_audio: bool = False
    problem: str | None = None


def video_samples() -> Mapping[str, VideoSample]:
    """The corpus: name -> file."""
    return {**_encoded(), **_edited(), **_no_videos()}


def _encoded() -> dict[str, VideoSample]:
    """What an encoder and a muxer write."""
    h264, hevc, vp9 = VideoSpec(), VideoSpec(codec="libx265"), VideoSpec(codec="libvpx-vp9", format="webm")
    av1 = VideoSpec(codec="libsvtav1", gop=15)
    matroska, ts = replace(h264, format="matroska"), replace(h264, format="mpegts")
    open_hevc = replace(hevc, num_frames=60, codec_options=_OPEN_HEVC)
    open_h264 = replace(h264, num_frames=60, codec_options={"x264-params": _OPEN_GOP})
    layers = {"x265-params": "log-level=none:keyint=24:bframes=3:b-adapt=0:temporal-layers=3"}
    refresh = {"x264-params": "keyint=20:bframes=0:intra-refresh=1"}
    specs = {
        "h264": h264,
        "h264_gop_250": replace(h264, num_frames=300, gop=250),
        "h264_all_keyframes": replace(h264, gop=1, b_frames=0),
        "h264_no_b_frames": replace(h264, b_frames=0),
        "h264_open_gop": open_h264,
        "h264_open_gop_matroska": replace(open_h264, format="matroska"),
        "h264_intra_refresh": replace(h264, num_frames=60, b_frames=0, codec_options=refresh),
        "h264_interlaced": replace(h264, codec_options={"x264-params": "keyint=12:tff=1"}),
        "h264_444": replace(h264, pixel_format="yuv444p"),
        "h264_422": replace(h264, pixel_format="yuv422p"),
        "h264_10_bit": replace(h264, pixel_format="yuv420p10le"),
        "h264_full_range": replace(h264, pixel_format="yuvj420p"),
        "h264_odd_size_444": replace(h264, pixel_format="yuv444p", width=95, height=63),
        "h264_wide_pixels": replace(h264, aspect_ratio=Fraction(4, 3)),
        "h264_one_frame": replace(h264, num_frames=1),
        "h264_ntsc": replace(h264, rate=Fraction(30000, 1001)),
        "h264_variable_rate": replace(h264, times_s=_TIMES_S),
        "h264_variable_rate_matroska": replace(matroska, times_s=_TIMES_S),
        "h264_index_first": replace(h264, container_options=_INDEX_FIRST),
        "h264_fragmented": replace(h264, container_options=_FRAGMENTED),
        "h264_sound": replace(h264, audio_codec="aac"),
        "h264_matroska": matroska,
        "h264_matroska_sound": replace(matroska, audio_codec="libopus"),
        "h264_ts": ts,
        "h264_ts_open_gop": replace(open_h264, format="mpegts"),
        "h264_ts_sound": replace(ts, audio_codec="aac"),
        "h264_flv": replace(h264, format="flv"),
        "h264_mov": replace(h264, format="mov"),
        "h264_avi": replace(h264, format="avi"),
        "h264_raw": replace(h264, format="h264"),
        "hevc": hevc,
        "hevc_open_gop": open_hevc,
        "hevc_open_gop_matroska": replace(open_hevc, format="matroska"),
        "hevc_open_gop_ts": replace(open_hevc, format="mpegts"),
        "hevc_10_bit": replace(hevc, pixel_format="yuv420p10le"),
        "hevc_temporal_layers": replace(hevc, num_frames=48, codec_options=layers),
        "hevc_temporal_layers_ts": replace(hevc, num_frames=48, codec_options=layers, format="mpegts"),
        "vp8": replace(vp9, codec="libvpx"),
        "vp9": vp9,
        "vp9_hidden_frames": replace(vp9, num_frames=90, gop=60, codec_options=_two_pass_like()),
        "vp9_odd_size": replace(vp9, width=95, height=63),
        "vp9_variable_rate": replace(vp9, times_s=_TIMES_S),
        "vp9_mp4": replace(vp9, format="mp4"),
        "av1": av1,
        "av1_matroska": replace(av1, format="matroska"),
        "mpeg4": VideoSpec(codec="mpeg4", width=95, height=63),
        "mpeg4_avi": VideoSpec(codec="mpeg4", format="avi", b_frames=0),
        "mpeg4_avi_b_frames": VideoSpec(codec="mpeg4", format="avi"),
        "mpeg4_avi_sound": VideoSpec(codec="mpeg4", format="avi", b_frames=0, audio_codec="libmp3lame"),
        "mpeg4_avi_variable_rate": VideoSpec(codec="mpeg4", format="avi", b_frames=0, times_s=_TIMES_S),
        "mpeg2_ts": VideoSpec(codec="mpeg2video", format="mpegts"),
        "mpeg1": VideoSpec(codec="mpeg1video", format="mpeg"),
        "mjpeg_avi": VideoSpec(codec="mjpeg", format="avi", pixel_format="yuvj422p", b_frames=0),
        "gif": VideoSpec(codec="gif", format="gif", pixel_format="rgb8"),
    }
    return {name: _sample(spec) for name, spec in specs.items()}


def _edited() -> dict[str, VideoSample]:
    """What somebody did to a file afterwards."""
    h264, ts = VideoSpec(), VideoSpec(format="mpegts")
    open_hevc = VideoSpec(codec="libx265", format="matroska", num_frames=60, codec_options=_OPEN_HEVC)
    small = VideoSpec(width=48, height=32, codec_options={"crf": "50"})
    samples = {
        f"h264_turned_{degrees}": VideoSample(
            ".mp4", partial(encode_video, replace(h264, width=80, turned=degrees)), size=(80, 64)
        )
        for degrees in (90, 180, 270)
    }
    edits = {
        "h264_trimmed": ([(1000, 1024 + 5 * 512)], range(5, 30)),
        "h264_delayed": ([(400, -1), (1000, 1024)], range(25)),
        "h264_two_edits": ([(600, 1024 + 3 * 512), (600, 1024 + 20 * 512)], [*range(3, 18), *range(20, 35)]),
        "h264_edits_swapped": ([(600, 1024 + 20 * 512), (600, 1024 + 3 * 512)], [*range(20, 35), *range(3, 18)]),
    }
    for name, (edit, numbers) in edits.items():
        samples[name] = VideoSample(".mp4", partial(_with_edits, h264, edit), numbers)
    return {
        **samples,
        "h264_ts_joined": VideoSample(".ts", partial(_joined, ts, replace(ts, first_number=40)), range(80)),
        "h264_ts_begun_late": VideoSample(".ts", partial(_begun_late, ts), range(12, 40)),
        "vp8_hidden_frames": VideoSample(
            ".webm",
            partial(_hidden, VideoSpec(codec="libvpx", format="webm"), (5, 20, 39)),
            [number for number in range(40) if number not in (5, 20, 39)],
        ),
        "hevc_begun_at_keyframe": VideoSample(
            ".mkv",
            partial(_second_group_on, open_hevc),
            range(12, 60),
        ),
        "h264_two_tracks": VideoSample(".mp4", partial(_two_tracks, small, h264)),
        "h264_sound_and_cover": VideoSample(".mp4", partial(_with_cover, "mp4", "aac", h264), has_audio=True),
    }


def _no_videos() -> dict[str, VideoSample]:
    """Files that cannot be used as videos, and why."""
    h264 = VideoSpec()
    matroska = replace(h264, format="matroska")
    sizes = replace(VideoSpec(format="mpegts"), width=48, height=32)

    def broken(make: Callable[[], bytes], problem: str, suffix: str = ".mp4") -> VideoSample:
        return VideoSample(suffix, make, None, problem=problem)

    return {
        "cut_off": broken(partial(_cut, h264), "without its index"),
        "cut_off_index_first": broken(partial(_cut, replace(h264, container_options=_INDEX_FIRST)), "cut off"),
        "cut_off_fragmented": broken(partial(_cut, replace(h264, container_options=_FRAGMENTED)), "cut off"),
        "cut_off_webm": broken(partial(_cut, VideoSpec(codec="libvpx-vp9", format="webm")), "cut off", ".webm"),
        "cut_off_flv": broken(partial(_cut, replace(h264, format="flv")), "cut off", ".flv"),
        "cut_off_avi": broken(
            partial(_cut, VideoSpec(codec="mpeg4", format="avi", b_frames=0)), "AVI file that is damaged", ".avi"
        ),
        "no_frames": broken(partial(encode_video, replace(h264, num_frames=0)), "no video track"),
        "no_frames_avi": broken(
            partial(encode_video, VideoSpec(codec="mpeg4", format="avi", num_frames=0)), "no frame", ".avi"
        ),
        "no_frames_matroska": broken(partial(encode_video, replace(matroska, num_frames=0)), "not a readable", ".mkv"),
        "sound_only": broken(partial(_with_cover, "mp4", "aac", None, cover=False), "sound only"),
        "sound_only_mp3": broken(partial(_with_cover, "mp3", "libmp3lame", None, cover=False), "sound only", ".mp3"),
        "sound_only_wav": broken(partial(_with_cover, "wav", "pcm_s16le", None, cover=False), "sound only", ".wav"),
        "sound_and_cover_mp3": broken(partial(_with_cover, "mp3", "libmp3lame", None), "cover picture only", ".mp3"),
        "sound_and_cover_m4a": broken(partial(_with_cover, "mp4", "aac", None), "cover picture only", ".m4a"),
        "two_sizes": broken(partial(_joined, VideoSpec(format="mpegts"), sizes), "one size", ".ts"),
        "damaged_header": broken(partial(_damaged, h264), "not a readable video"),
        "empty": broken(bytes, "empty file"),
        "noise": broken(lambda: bytes(index * index % 251 for index in range(5000)), "not a readable video"),
        "playlist": broken(lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n", "playlist", ".m3u8"),
        "list_of_files": broken(lambda: b"ffconcat version 1.0\nfile /etc/hostname\n", "playlist", ".ffconcat"),
    }


def _sample(spec: VideoSpec) -> VideoSample:
    suffixes = {"matroska": ".mkv", "mpegts": ".ts", "mpeg": ".mpg"}
    return VideoSample(
        suffixes.get(spec.format, f".{spec.format}"),
        partial(encode_video, spec),
        range(spec.num_frames),
        (spec.width, spec.height),
        spec.audio_codec is not None,
    )


def _two_pass_like() -> dict[str, str]:
    """Options with which libvpx looks ahead, and stores frames that are never shown."""
    return {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "20", "b:v": "100k"}


def _with_edits(spec: VideoSpec, edits: Sequence[tuple[int, int]]) -> bytes:
    return edit_mp4(encode_video(spec), edits)


def _joined(first: VideoSpec, second: VideoSpec) -> bytes:
    return encode_video(first) + encode_video(second)


def _begun_late(spec: VideoSpec) -> bytes:
    """A recording of a transport stream that began between two keyframes."""
    data = encode_video(spec)
    return data[len(data) // 8 // 188 * 188 :]


def _cut(spec: VideoSpec) -> bytes:
    data = encode_video(spec)
    return data[: len(data) // 2]


def _hidden(spec: VideoSpec, numbers: Sequence[int]) -> bytes:
    """VP8 of which some frames are stored to be referred to only, as encoders do that look ahead."""

    def hide(number: int, packet: av.Packet) -> bytes:
        data = bytearray(packet)
        if number in numbers:
            data[0] &= ~0x10  # RFC 6386, section 9.1: show_frame
        return bytes(data)

    return _repacked(encode_video(spec), spec.format, hide)


def _second_group_on(spec: VideoSpec) -> bytes:
    """A video without its first group of pictures, on which the second one still depends."""
    keys = 0

    def keep(number: int, packet: av.Packet) -> bytes | None:
        nonlocal keys
        keys += packet.is_keyframe
        return bytes(packet) if keys >= 2 else None

    return _repacked(encode_video(spec), spec.format, keep)


def _repacked(data: bytes, format: str, change: Callable[[int, av.Packet], bytes | None]) -> bytes:
    """Stores the packets of a video track anew, each as `change` makes it of its number and itself, or not at all."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(data)) as stored,
        av.open(buffer, "w", format=format, options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream_from_template(stored.streams.video[0])
        for number, packet in enumerate(stored.demux(video=0)):
            changed = change(number, packet) if packet.size else None
            if changed is None:
                continue
            new = av.Packet(changed)
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, stream
            container.mux(new)
    return buffer.getvalue()


def _damaged(spec: VideoSpec) -> bytes:
    return encode_video(spec).replace(b"moov", b"moot").replace(b"ftyp", b"ftyq")


def _two_tracks(first: VideoSpec, second: VideoSpec) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=first.format) as container:
        tracks = [(add_video_track(container, spec), spec) for spec in (first, second)]
        tracks[1][0].disposition = Disposition.default
        for track, spec in tracks:
            encode_frames(container, track, spec)
    return buffer.getvalue()


def _with_cover(format: str, audio_codec: str, video: VideoSpec | None, *, cover: bool = True) -> bytes:
    """Sound, with a cover picture and a video track where wanted."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        audio = add_audio_track(container, audio_codec)
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 400, 400, "yuvj420p"
            picture.disposition = Disposition.attached_pic
        track = None if video is None else add_video_track(container, video)
        container.start_encoding()
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(make_frame(0, 400, 400), "rgb24").reformat(format="yuvj420p")
            frame.pts = 0
            container.mux([*picture.encode(frame), *picture.encode(None)])
        if track is not None and video is not None:
            encode_frames(container, track, video)
        encode_tone(container, audio, 1.6)
    return buffer.getvalue()
