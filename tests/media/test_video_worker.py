"""Many videos opened and sampled in a DataLoader worker: neither memory nor open files grow, and nothing hangs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.video import VideoSpec, read_frame_number, write_video
from mmdatasets.types import FramePlan

KINDS = {
    "h264.mp4": VideoSpec(width=320, height=180),
    "fragmented.mp4": VideoSpec(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mkv": VideoSpec(codec="libx265", format="matroska"),
    "h264.ts": VideoSpec(format="mpegts"),
    "vp9.webm": VideoSpec(codec="libvpx-vp9", format="webm"),
    "mpeg4.avi": VideoSpec(codec="mpeg4", format="avi"),
}
MAX_GROWTH = 24 << 20  # bytes; 2,000 leaked frames would be 345 MB


class Sampled(Dataset):
    """Frames of videos, and what the worker that decoded them takes."""

    def __init__(self, paths, length):
        self.paths, self.length = paths, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        path, options = self.paths[index % len(self.paths)], MediaOptions()
        info = probe_video(path, options)
        indices = (index % 7, 11 + index % 13, info.num_frames - 1)
        frames = decode_frames(path, FramePlan(indices, tuple(info.timestamps_s[list(indices)])), options)
        numbers = [read_frame_number(frame.permute(1, 2, 0).numpy()) for frame in frames]
        resident = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return numbers == list(indices), int(resident[1]) * 1024, len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("length", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_worker_neither_grows_nor_hangs(context, length, tmp_path):
    paths = [write_video(tmp_path / name, spec) for name, spec in KINDS.items()]
    for path in paths:  # decoding before the worker starts must not harm a forked one
        decode_frames(path, FramePlan((0,)), MediaOptions())
    loader = DataLoader(
        Sampled(paths, length), batch_size=None, num_workers=1, multiprocessing_context=context, timeout=120
    )
    right, resident, num_files = zip(*loader, strict=True)
    assert len(right) == length
    assert all(right)
    warm = length // 3
    assert max(resident[warm:]) - max(resident[:warm]) < MAX_GROWTH
    assert max(num_files[warm:]) <= max(num_files[:warm])
