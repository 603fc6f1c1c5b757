"""The index of an MP4 file tells what a scan of its packets tells, without reading them; or it is not used."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mmdatasets.errors import MediaError
from mmdatasets.media.container import open_video
from mmdatasets.media.mp4_index import index_packets
from mmdatasets.media.mp4_tables import read_sample_tables
from mmdatasets.media.packets import scan_packets
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.testing.mp4_boxes import edit_mp4, find_box
from mmdatasets.testing.video import VideoSpec, encode_video, read_frame_number
from mmdatasets.types import FramePlan
from tests.media.video_cases import CORPUS, GOOD, OPTIONS, channels_last, decode_in_sequence, file_of

MP4 = [name for name in GOOD if CORPUS[name].suffix in (".mp4", ".mov")]
# Fragmented; MPEG-4 Part 2, which may repeat frames; edits for which FFmpeg rewrites the index; two tracks.
WITHOUT = {"h264_fragmented", "mpeg4", "h264_delayed", "h264_two_edits", "h264_edits_swapped", "h264_two_tracks"}


def indexed(data):
    """The scan that the index gives, or `None`."""
    file = io.BytesIO(data)
    with open_video(file, OPTIONS, "file", quick=True) as video:
        found = index_packets(video, file) if video.is_only_track else None
        return None if found is None else found[0]


def scanned(data):
    with open_video(io.BytesIO(data), OPTIONS, "file") as video:
        return scan_packets(video)


def check_same(index, scan, names=("pts", "dts", "durations", "is_key", "is_shown", "time_base", "doubt")):
    for name in names:
        assert getattr(index, name) == getattr(scan, name), name


@pytest.mark.parametrize("name", [name for name in MP4 if name != "mpeg4"])
def test_the_index_tells_what_the_packets_tell(name):
    index = indexed(file_of(name))
    assert (index is None) == (name in WITHOUT)
    if index is not None:
        check_same(index, scanned(file_of(name)))


class CountedFile(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    num_bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        self.num_bytes += len(data)
        return data


@pytest.fixture(scope="module")
def large():
    """Two megabytes of keyframes."""
    return encode_video(
        VideoSpec(num_frames=120, width=320, height=180, gop=1, b_frames=0, codec_options={"crf": "4"})
    )


@pytest.mark.parametrize("moved", [False, True], ids=["movie box last", "movie box first"])
def test_probing_reads_no_media_data_but_the_first_frame(large, moved, tmp_path):
    data = with_movie_box_first(large, tmp_path / "video.mp4") if moved else large
    file = CountedFile(data)
    assert probe_video(file, OPTIONS).num_frames == 120
    assert len(data) > 1_500_000
    assert file.num_bytes < 150_000


def test_decoding_reads_the_frames_that_it_needs(large):
    file = CountedFile(large)
    frames = decode_frames(file, FramePlan((7, 100)), OPTIONS)
    assert [read_frame_number(frame) for frame in channels_last(frames)] == [7, 100]
    assert file.num_bytes < 300_000


def with_movie_box_first(data, path):
    options = {"movflags": "faststart"}
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.read_bytes()


@st.composite
def specifications(draw):
    num_frames = draw(st.integers(1, 24))
    codec = draw(st.sampled_from(["libx264", "libx264", "libx264", "libx265"]))
    spec = VideoSpec(
        num_frames=num_frames,
        width=draw(st.sampled_from([64, 98, 112])),
        height=64,
        codec=codec,
        format=draw(st.sampled_from(["mp4", "mov"])),
        rate=draw(st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(1), Fraction(120)])),
        gop=draw(st.integers(1, 12)),
        b_frames=draw(st.integers(0, 4)),
        turned=draw(st.sampled_from([0, 0, 90, 180, 270])),
        audio_codec=draw(st.sampled_from([None, None, "aac"])),
        container_options=draw(
            st.sampled_from(
                [
                    {},
                    {"use_editlist": "0"},
                    {"movflags": "negative_cts_offsets"},
                    {"movflags": "frag_keyframe+empty_moov"},
                    {"video_track_timescale": "90000"},
                ]
            )
        ),
    )
    if spec.container_options.get("movflags", "").startswith("frag"):
        spec = replace(spec, turned=0, format="mp4")
    if draw(st.booleans()):
        gaps = draw(st.lists(st.integers(1, 300), min_size=num_frames, max_size=num_frames))
        return replace(spec, times_s=[int(ms) / 1000 for ms in np.cumsum(gaps) - gaps[0]])
    return spec


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specifications())
def test_of_any_file_the_probe_finds_what_a_full_decode_gives(spec):
    data = encode_video(spec)
    index = indexed(data)
    if index is not None:
        check_same(index, scanned(data))
    whole, info = decode_in_sequence(data), probe_video(data, OPTIONS)
    assert (info.num_frames, info.height, info.width) == whole.pixels.shape[:3]
    assert np.allclose(info.timestamps_s, whole.times_s, rtol=0, atol=1e-9)
    plan = FramePlan(tuple(range(info.num_frames)), tuple(info.timestamps_s))
    assert np.array_equal(channels_last(decode_frames(data, plan, OPTIONS)), whole.pixels)


@settings(max_examples=40, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(1, 2000), st.one_of(st.just(-1), st.integers(0, 40 * 512))), min_size=1, max_size=3
    )
)
def test_with_any_edit_list_the_index_tells_what_the_packets_tell(edits):
    data = edit_mp4(file_of("h264"), edits)
    try:
        scan = scanned(data)
    except MediaError:
        assume(False)
    index = indexed(data)
    if index is not None:
        check_same(index, scan)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_with_any_byte_changed_the_index_tells_what_the_packets_tell_or_is_not_used(data):
    """Or the file cannot be opened, which the error says. Keyframes are another matter: see below."""
    content = bytearray(file_of("h264_variable_rate"))
    start, end = find_box(bytes(content), b"moov")
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.integers(start, end - 1))] = data.draw(st.integers(0, 255))
    try:
        index = indexed(bytes(content))
        scan = scanned(bytes(content))
    except MediaError:
        return
    if index is not None and scan.doubt is None:
        check_same(index, scan, ("pts", "dts", "durations", "is_shown", "time_base"))


@pytest.mark.parametrize("name", ["h264", "h264_open_gop", "h264_intra_refresh", "hevc_open_gop", "vp9_mp4", "av1"])
@pytest.mark.parametrize("shift", [None, 3])
def test_keyframes_that_are_none_do_no_harm(name, shift):
    """The table of keyframes is missing, as if all were, or names the wrong ones."""
    data = bytearray(file_of(name))
    start, _ = find_box(bytes(data), b"moov")
    table = data.index(b"stss", start)
    if shift is None:
        data[table : table + 4] = b"free"
    else:
        for position in range(table + 16, table + 12 + 4 * int.from_bytes(data[table + 8 : table + 12], "big"), 4):
            data[position : position + 4] = (int.from_bytes(data[position : position + 4], "big") + shift).to_bytes(4)
    assert indexed(bytes(data)) is not None
    pixels = decode_in_sequence(bytes(data)).pixels
    for index in range(0, len(pixels), 3):
        frame = channels_last(decode_frames(bytes(data), FramePlan((index,)), OPTIONS))[0]
        assert np.array_equal(frame, pixels[index])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_tables_that_break_off_are_not_used(share):
    data = file_of("h264")
    start, end = find_box(data, b"moov")
    assert read_sample_tables(io.BytesIO(data), 1) is not None
    assert read_sample_tables(io.BytesIO(data[: start + int(share * (end - start))]), 1) is None
    assert read_sample_tables(io.BytesIO(data), 2) is None


def test_a_header_that_states_another_size_than_the_frames_have():
    data = file_of("h264")
    offset = data.index(b"avc1", find_box(data, b"moov")[0]) + 4 + 24
    assert data[offset : offset + 4] == b"\0\x70\0\x40"
    for stated in (b"\0\x71\0\x40", b"\0\xe0\0\x80", b"\0\x60\0\x30"):
        changed = data[:offset] + stated + data[offset + 4 :]
        pixels = decode_in_sequence(changed).pixels
        info = probe_video(changed, OPTIONS)
        assert (info.height, info.width) == pixels.shape[1:3]
        assert np.array_equal(channels_last(decode_frames(changed, FramePlan((0, 21)), OPTIONS)), pixels[[0, 21]])
