"""Nothing is lost over 10,000 batches, or 2,500: memory and open files of workers and parent stay as they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video

SETTLED = 1_000  # caches are full, allocators have what they need
ALLOWED_MIB = 16


def chat(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


def visual(folder, image_file):
    clip = write_video(folder / "a.mp4", VideoSpec(num_frames=6, width=64, height=48))
    data = image_file(80, 60).read_bytes()
    columns = {
        "messages": [chat("<image>"), chat("<image><image>"), chat("<video>"), chat("nothing")],
        "images": [[str(image_file(60, 60))], [{"bytes": data, "path": None}, str(image_file(90, 60))], [], []],
        "videos": [[], [], [str(clip)], []],
    }
    return "qwen2_vl", columns


def audible(folder, image_file):
    sounds = [
        str(write_audio(folder / f"{rate}.wav", sampling_rate=rate, duration_s=0.4)) for rate in (16_000, 44_100)
    ]
    clip = write_video(folder / "a.mp4", VideoSpec(num_frames=6, width=64, height=48, audio_codec="aac"))
    columns = {"messages": [chat("<audio>")] * 3, "audios": [[sounds[0]], [sounds[1]], [str(clip)]]}
    return "phi4_multimodal", columns  # whose spectrograms cost least


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def num_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize(
    "num_batches", [pytest.param(2_500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)]
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", [visual, audible])
def test_nothing_leaks(kind, num_batches, tmp_path, image_file) -> None:
    family, columns = kind(tmp_path, image_file)
    plugin = auto_plugin(build_processor(family), options=MediaOptions())
    mapped = plugin.transform(columns)
    rows = [{name: column[index] for name, column in mapped.items()} for index in range(len(columns["messages"]))]
    order = [[index % len(rows)] for index in range(num_batches)]
    loader = DataLoader(rows, batch_sampler=order, collate_fn=plugin.collator(), num_workers=2, timeout=120)
    batches = iter(loader)
    pids = [os.getpid(), *(worker.pid for worker in batches._workers)]
    seen = []
    for number, _ in enumerate(batches, start=1):
        if (
            number >= SETTLED and number % (num_batches // 20) == 0 and number < num_batches
        ):  # workers end with the last one
            seen.append({pid: (rss_mib(pid), num_files(pid)) for pid in pids})
    assert number == num_batches
    for pid in pids:
        memory = [moment[pid][0] for moment in seen]
        files = [moment[pid][1] for moment in seen]
        early, late = max(memory[:4]), min(memory[-4:])
        assert late - early < ALLOWED_MIB, f"memory of process {pid}: {memory}"
        # The parent has the files of the batches that are on their way, which are some at any time.
        assert min(files[-4:]) <= max(files[:4]), f"open files of process {pid}: {files}"
        assert max(files) - min(files) < 32, f"open files of process {pid}: {files}"
