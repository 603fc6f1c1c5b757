"""`mmdatasets probe`: what files are, whatever they are called."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers.image_utils import load_image

import mmdatasets.testing
from mmdatasets import MediaOptions
from mmdatasets.cli.main import main
from mmdatasets.errors import MediaDecodeError, MediaLimitError
from mmdatasets.report.probing import probe_file
from mmdatasets.testing import build_processor
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, write_video
from tests.cli.installed import run_installed

DATA = Path(mmdatasets.testing.__file__).parent / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Media of each kind, named as something else, beside files that are none."""
    folder = tmp_path_factory.mktemp("media")
    write_image(folder / "wide.png", 640, 48)
    (folder / "wide.png").rename(folder / "wide.mp4")
    write_video(folder / "clip.mp4", VideoSpec(num_frames=50, width=160, height=112, audio_codec="aac"))
    (folder / "clip.mp4").rename(folder / "clip.wav")
    write_audio(folder / "speech.wav", sampling_rate=44_100, duration_s=1.5, num_channels=2)
    (folder / "speech.wav").rename(folder / "speech")
    shutil.copy(DATA / "rocket_exif6.jpg", folder / "rocket.jpg")
    (folder / "notes.txt").write_text("no media", "utf-8")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    (folder / "cut.jpg").write_bytes((DATA / "cat.jpg").read_bytes()[:100])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.mp4").write_text("hello", "utf-8")
    sound = write_audio(folder / "cut.wav", sampling_rate=8000, duration_s=1)
    sound.write_bytes(sound.read_bytes()[:900])
    return folder


def test_the_installed_command(folder, broken, tmp_path):
    done = run_installed("probe", folder, broken / "cut.jpg", "lost.png", cwd=tmp_path)
    assert done.returncode == 1  # for the two, which do not keep it from the others
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    whole = [str(folder / name) for name in ("clip.wav", "rocket.jpg", "speech", "wide.mp4")]
    assert list(lines) == [*whole, str(broken / "cut.jpg"), "lost.png"]
    clip, rocket, speech, wide, cut, lost = lines.values()
    assert clip.startswith("video, 160x112, 50 frames, 25 frames/s, 2.000 s, with sound, read ")
    assert re.match(r"image, 288x427, turned upright \(EXIF orientation 6\), read 50\d of 18,364 bytes in ", rocket)
    assert speech.startswith("audio, 1.500 s, 66150 samples at 44100 Hz, 2 channels, read ")
    assert wide.startswith("image, 640x48, read ")
    assert cut.startswith("error: not a readable image: a JPEG file with a truncated or damaged header")
    assert lost.startswith("error: no such file")
    assert done.stderr == ""


def test_json_and_tokens_are_what_the_map_finds(folder, tmp_path, capsys):
    processor = build_processor("qwen2_vl")
    processor.save_pretrained(tmp_path / "processor")
    files = [str(folder / "rocket.jpg"), str(folder / "clip.wav"), str(folder / "speech")]
    assert main(["probe", *files, "--json", "--processor", str(tmp_path / "processor")]) == 1
    image, video, audio = map(json.loads, capsys.readouterr().out.splitlines())
    picture = load_image(str(DATA / "rocket_exif6.jpg"))
    pixels = processor.image_processor(picture, return_tensors="pt")["image_grid_thw"]
    assert image["tokens"] == int(pixels.prod()) // 4
    assert (image["kind"], image["width"], image["height"], image["orientation"]) == ("image", 288, 427, 6)
    assert (video["num_frames"], video["fps"], video["duration_s"], video["has_audio"]) == (50, 25.0, 2.0, True)
    assert video["tokens"] > 0
    assert "takes no audio" in audio["error"]  # the model, not the file


def test_no_more_is_read_of_a_file_than_its_headers(folder):
    for name in ("rocket.jpg", "speech", "wide.mp4"):
        probed = probe_file(folder / name, MediaOptions())
        assert 0 < probed.bytes_read < 4000
        assert probed.num_bytes == (folder / name).stat().st_size
        assert probed.seconds > 0


def test_what_cannot_be_read_is_named(broken):
    said = {
        "cut.jpg": "a JPEG file with a truncated or damaged header",
        "empty.png": "an empty file",
        "text.mp4": "no image, video or audio that can be read: found data that begins with b'hello'",
        "cut.wav": "cut off",
    }
    for name, message in said.items():
        with pytest.raises(MediaDecodeError, match=message) as raised:
            probe_file(broken / name, MediaOptions())
        assert raised.value.source == str(broken / name)
    with pytest.raises(MediaLimitError, match="image_pixel_limit"):
        probe_file(DATA / "cat.jpg", MediaOptions(image_pixel_limit=1000))
