"""Reading media in bounded time: equal results, and decoders that are stuck, crash, or lose their parent."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaNotFoundError, MediaTimeoutError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.bounded import _helper_of, is_bounded
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.types import FramePlan

HERE = MediaOptions()
BOUNDED = MediaOptions(decode_timeout_s=60)


def helper():
    """The process that reads for this one."""
    return _helper_of(os.getpid())


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(process_id: int) -> None:
    end = time.monotonic() + 20
    while is_alive(process_id):
        assert time.monotonic() < end, f"process {process_id} goes on"
        time.sleep(0.05)


@pytest.fixture
def stuck_filesystem(tmp_path, monkeypatch):
    """A filesystem of an installed package, whose files never come to an end: reading one blocks."""
    package = tmp_path / "site"
    info = package / "stuckfs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stuckfs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nstuck = stuckfs:StuckFileSystem\n")
    (package / "stuckfs.py").write_text(
        textwrap.dedent(
            """
            import time
            from fsspec.implementations.memory import MemoryFileSystem

            class StuckFileSystem(MemoryFileSystem):
                protocol = "stuck"

                def _open(self, path, mode="rb", **kwargs):
                    time.sleep(3600)
            """
        )
    )
    monkeypatch.syspath_prepend(str(package))
    helper()._end()  # the next one knows the package
    yield "stuck://bucket/photo.jpg"
    helper()._end()


def test_images_equal_what_is_decoded_here(image_file) -> None:
    for path in (image_file(640, 480), image_file(33, 57)):
        for reference in (str(path), path, path.read_bytes(), {"path": None, "bytes": path.read_bytes()}):
            assert probe_image(reference, BOUNDED) == probe_image(reference, HERE)
            ours, theirs = decode_image(reference, BOUNDED), decode_image(reference, HERE)
            assert torch.equal(ours, theirs)
            assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())


def test_videos_and_audio_equal_what_is_decoded_here(tmp_path, image_file) -> None:
    video, sound = tmp_path / "clip.mp4", tmp_path / "sound.wav"
    write_video(video, VideoSpec(num_frames=6))
    write_audio(sound, 22_050, 0.5)
    ours, theirs = asdict(probe_video(video, BOUNDED)), asdict(probe_video(video, HERE))
    np.testing.assert_equal(ours.pop("timestamps_s"), theirs.pop("timestamps_s"))
    assert ours == theirs
    info = probe_video(video, HERE)
    plan = FramePlan((0, 2, 2, 5), tuple(info.timestamps_s[[0, 2, 2, 5]].tolist()))
    frames = decode_frames(str(video), plan, BOUNDED)
    assert torch.equal(frames, decode_frames(str(video), plan, HERE))
    assert frames.stride() == decode_frames(str(video), plan, HERE).stride()
    listed = [str(image_file(40, 40)), str(image_file(40, 40))]
    assert torch.equal(
        decode_frames(listed, FramePlan((0, 1)), BOUNDED), decode_frames(listed, FramePlan((0, 1)), HERE)
    )
    assert probe_audio(sound, BOUNDED) == probe_audio(sound, HERE)
    samples = decode_audio(sound, BOUNDED, 16_000, start_s=0.1, end_s=0.4)
    np.testing.assert_array_equal(samples, decode_audio(sound, HERE, 16_000, start_s=0.1, end_s=0.4))
    assert samples.dtype == np.float32


def test_errors_are_those_that_are_raised_here(image_file, tmp_path) -> None:
    path = image_file(64, 64)
    cases = [
        (tmp_path / "missing.png", {}, MediaNotFoundError),
        (b"no image", {}, MediaDecodeError),
        (str(path), {"image_pixel_limit": 100}, MediaLimitError),
    ]
    decode_image(path, BOUNDED)
    process = helper()._process
    for reference, fields, kind in cases:
        found = []
        for options in (BOUNDED, HERE):
            with pytest.raises(kind) as caught:
                decode_image(reference, replace(options, **fields))
            found.append((type(caught.value), str(caught.value)))
        assert found[0] == found[1]
    with pytest.raises(ValueError, match="start_s"):
        decode_audio(str(path), BOUNDED, 16_000, start_s=2.0, end_s=1.0)
    assert helper()._process is process  # none of them ended it


def test_a_stopped_decoder_is_killed_and_the_next_item_decodes(image_file) -> None:
    path = image_file(64, 64)
    decode_image(path, BOUNDED)
    first = helper()._process.pid
    os.kill(first, signal.SIGSTOP)
    start = time.monotonic()
    # More than a pipe holds: neither may the writing of the request hang.
    with pytest.raises(MediaTimeoutError, match=r"bytes \(.* B\): it was not read and decoded within 0.5 s"):
        decode_image(path.read_bytes() + bytes(10_000_000), replace(BOUNDED, decode_timeout_s=0.5))
    assert time.monotonic() - start < 5
    assert not is_alive(first)
    assert torch.equal(decode_image(path, BOUNDED), decode_image(path, HERE))
    assert helper()._process.pid != first


def test_a_source_that_never_answers(stuck_filesystem, image_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="skip", options=replace(BOUNDED, decode_timeout_s=0.5))
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "This."}]
    made = plugin.transform({"messages": [messages] * 2, "images": [[str(image_file(60, 60))], [stuck_filesystem]]})
    assert len(made["input_ids"]) == 1
    assert plugin.bad_rows.reasons == {"media_timeout": 1}


@pytest.mark.slow
def test_a_decoder_that_crashes_is_an_error_of_its_item(image_file) -> None:
    path = image_file(64, 64)
    decode_image(path, BOUNDED)
    process = helper()._process
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGSEGV)  # comes when it goes on, which is while the next request waits
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -CONT {process.pid}"])
    with pytest.raises(MediaDecodeError, match=r"the decoder crashed: its process ended \(killed by SIGSEGV\)"):
        decode_image(path, BOUNDED)
    assert decode_image(path, BOUNDED).shape == (3, 64, 64)


def test_what_lives_in_this_process_is_read_here(image_file) -> None:
    path = image_file(64, 64)
    with path.open("rb") as file:
        assert not is_bounded(file, BOUNDED)
        assert torch.equal(decode_image(file, BOUNDED), decode_image(path, HERE))
    assert not is_bounded(np.zeros((4, 4, 3), np.uint8), BOUNDED)
    assert not is_bounded(str(path), HERE)
    assert is_bounded({"frames": [str(path)], "fps": 2.0}, BOUNDED)


@pytest.mark.slow
def test_no_process_outlives_a_parent_that_is_killed(image_file) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, threading, time
        from mmdatasets import MediaOptions
        from mmdatasets.media.bounded import _helper_of
        from mmdatasets.media.image import decode_image
        decode_image({str(image_file(64, 64))!r}, MediaOptions(decode_timeout_s=60))
        print(_helper_of(os.getpid())._process.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for_end(child)


class Decoding:
    """A dataset of decoded images, with the process that decoded each."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return decode_image(self.path, BOUNDED), helper()._process.pid, os.getpid()


@pytest.mark.slow
def test_workers_of_a_loader_have_their_own(image_file) -> None:
    path = str(image_file(64, 64))
    decode_image(path, BOUNDED)  # this process has one already, which no worker may use
    mine = helper()._process.pid
    loader = DataLoader(Decoding(path), batch_size=None, num_workers=2, timeout=120)
    found = list(loader)
    assert all(torch.equal(image, decode_image(path, HERE)) for image, _, _ in found)
    decoders = {worker: decoder for _, decoder, worker in found}
    assert len(decoders) == len({*decoders.values()}) == 2
    assert mine not in decoders.values()
    del loader
    for decoder in decoders.values():
        wait_for_end(decoder)
    assert helper()._process.pid == mine
    assert decode_image(path, BOUNDED).shape == (3, 64, 64)


def test_the_setting_is_checked_and_travels() -> None:
    with pytest.raises(ValueError, match="decode_timeout_s must be a positive number or None"):
        MediaOptions(decode_timeout_s=0)
    assert pickle.loads(pickle.dumps(BOUNDED)) == BOUNDED
