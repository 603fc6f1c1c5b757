"""Seeks, and what is decoded from where: no frame that is not needed, and none that needs another one's reference."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mmdatasets.media import video_pyav
from mmdatasets.media.container import open_video
from mmdatasets.media.packets import PacketScan, scan_packets
from mmdatasets.media.seeking import has_temporal_layers, plan_runs
from mmdatasets.media.video import decode_frames
from mmdatasets.types import FramePlan
from tests.media.video_cases import GOOD, OPTIONS, channels_last, decoded, file_of

# Packets do not tell which frame is which.
IN_SEQUENCE = {"h264_avi", "h264_raw", "mpeg4_avi_b_frames", "mpeg1", "h264_ts_joined", "h264_ts_begun_late"}
IN_SEQUENCE |= {"hevc_begun_at_keyframe"}
REFRESHED = {"h264_intra_refresh"}  # the decoder marks frames as damaged for a while after each keyframe but the first


def check(name: str, indices: list[int]) -> None:
    frames = decode_frames(file_of(name), FramePlan(tuple(indices)), OPTIONS)
    assert np.array_equal(channels_last(frames), decoded(name).pixels[indices])


@pytest.mark.parametrize("name", [name for name in GOOD if name not in IN_SEQUENCE | REFRESHED])
def test_frames_are_found_without_decoding_everything(name, monkeypatch):
    monkeypatch.setattr(video_pyav, "_decode_all", None)
    last = len(decoded(name).pixels) - 1
    check(name, [0, last // 3, last])


@pytest.mark.parametrize("name", sorted(IN_SEQUENCE))
def test_where_packets_do_not_tell_everything_is_decoded(name, monkeypatch):
    monkeypatch.setattr(video_pyav, "_decode_all", None)
    with pytest.raises(TypeError):
        check(name, list(range(len(decoded(name).pixels))))


@pytest.mark.parametrize("name", ["h264_flv", "h264_ts", "hevc_open_gop_matroska", "vp9"])
@pytest.mark.parametrize("shift", [1, 2, -1])
def test_a_scan_that_is_wrong_gives_no_wrong_frame(name, shift, monkeypatch):
    """Keyframes and times that are off by some packets: the frames are found all the same, by decoding in sequence."""

    def shifted(video) -> PacketScan:
        scan = scan_packets(video)
        for values in (scan.is_key, scan.dts):
            values[:] = values[shift:] + values[:shift]
        return scan

    monkeypatch.setattr(video_pyav, "scan_packets", shifted)
    for indices in ([0, 7, 13, 13, 30], [5], [39]):
        check(name, indices)


def test_frames_of_a_group_of_pictures_are_one_run():
    scan = _scan("h264")
    assert [(run.start, sorted(run.wanted.values())) for run in plan_runs(scan, [0, 1, 11, 25, 30, 39])] == [
        (0, [0, 1, 11]),
        (24, [25, 30]),
        (36, [39]),
    ]
    assert len(plan_runs(scan, range(40))) == 1
    assert [run.start for run in plan_runs(scan, [11, 12])] == [0]  # the keyframe is the next packet anyway


def test_frames_shown_before_their_keyframe_start_from_the_one_before():
    scan = _scan("hevc_open_gop")
    order = scan.presentation_order()
    keys = [position for position, is_key in enumerate(scan.is_key) if is_key]
    leading = [
        i for i, position in enumerate(order) if any(k < position and scan.pts[k] > scan.pts[position] for k in keys)
    ]
    assert leading
    for index in leading:
        (run,) = plan_runs(scan, [index])
        assert scan.pts[run.start] <= scan.pts[order[index]]


def test_temporal_layers_are_noticed():
    # There, pictures that their own layer does not refer to may not be left out.
    for name in ("hevc", "hevc_open_gop_matroska", "hevc_open_gop_ts", "h264", "av1"):
        assert not _has_layers(name)
    for name in ("hevc_temporal_layers", "hevc_temporal_layers_ts"):
        assert _has_layers(name)


def _has_layers(name: str) -> bool:
    with open_video(io.BytesIO(file_of(name)), OPTIONS, name) as video:
        return has_temporal_layers(video)


def _scan(name: str) -> PacketScan:
    with open_video(io.BytesIO(file_of(name)), OPTIONS, name) as video:
        return scan_packets(video)
