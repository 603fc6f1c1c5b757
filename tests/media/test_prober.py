from __future__ import annotations

import os
from pathlib import Path

import PIL.ExifTags
import PIL.Image
import pytest

from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaNotFoundError
from mmdatasets.media.audio import probe_audio
from mmdatasets.media.cache import MetadataCache
from mmdatasets.media.probe import probe_image
from mmdatasets.media.prober import MediaProber
from mmdatasets.media.video import probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, write_video
from tests.media.test_cache import bits

OPTIONS = MediaOptions()


@pytest.fixture
def cache(tmp_path: Path) -> MetadataCache:
    return MetadataCache(tmp_path / "cache")


def test_what_is_remembered_is_what_a_probe_finds(tmp_path, cache):
    turned = PIL.Image.Exif()
    turned[PIL.ExifTags.Base.Orientation] = 6
    image = write_image(tmp_path / "photo.jpg", 40, 30, exif=turned)
    video = write_video(tmp_path / "clip.mp4", VideoSpec(audio_codec="aac"))
    audio = write_audio(tmp_path / "sound.mp3", 16_000, 0.3)
    prober = MediaProber(OPTIONS, cache)
    expected = [
        probe_image(image, OPTIONS),
        probe_video(video, OPTIONS),
        probe_audio(audio, OPTIONS),
        probe_audio(video, OPTIONS),
    ]
    assert (expected[0].width, expected[0].height) == (30, 40)
    for _ in range(2):
        found = [prober.image(image), prober.video(video), prober.audio(audio), prober.audio(video)]
        assert list(map(bits, found)) == list(map(bits, expected))
    assert (cache.hits, cache.misses) == (4, 4)
    # A part of a video, and a mapping with what else a row says of it, are of the same file.
    parts = [{"path": str(video), "start": 0.2, "end": 1.0}, {"path": str(video), "indices": [0, 3]}]
    assert [bits(prober.video(part)) for part in parts] == [bits(expected[1])] * 2
    assert (cache.hits, cache.misses) == (6, 4)


def test_the_frames_of_a_list_are_remembered_each(tmp_path, cache):
    frames = [str(write_image(tmp_path / f"{number}.png", 20, 10)) for number in range(3)]
    prober = MediaProber(OPTIONS, cache)
    reference = {"frames": frames, "fps": 2}
    expected = bits(probe_video(reference, OPTIONS))
    assert bits(prober.video(reference)) == expected
    assert bits(prober.video(reference)) == expected
    assert prober.image(frames[0]).width == 20
    assert (cache.hits, cache.misses) == (4, 3)


def test_a_file_that_changes_is_probed_anew(tmp_path, cache):
    path = write_image(tmp_path / "photo.png", 20, 10)
    prober = MediaProber(OPTIONS, cache)
    assert prober.image(path).width == 20
    before = path.stat()
    write_image(path, 21, 10, format="PNG")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000))
    assert prober.image(path).width == 21
    cache.flush()
    assert MediaProber(OPTIONS, MetadataCache(cache.directory)).image(path).width == 21


def test_a_file_that_changes_while_it_is_probed_is_not_remembered(tmp_path, cache, monkeypatch):
    path = write_image(tmp_path / "photo.png", 20, 10)

    def slow_probe(reference: object, options: MediaOptions) -> object:
        found = probe_image(reference, options)
        write_image(path, 400, 300)
        return found

    monkeypatch.setattr("mmdatasets.media.prober.probe_image", slow_probe)
    assert MediaProber(OPTIONS, cache).image(path).width == 20
    monkeypatch.undo()
    assert MediaProber(OPTIONS, cache).image(path).width == 400


def test_limits_hold_for_what_is_remembered(tmp_path, cache):
    image, video = write_image(tmp_path / "photo.png", 20, 10), write_video(tmp_path / "clip.mp4", VideoSpec())
    limited = MediaOptions(image_pixel_limit=100)
    for reference, kind, probe in ((image, "image", probe_image), (video, "video", probe_video)):
        getattr(MediaProber(OPTIONS, cache), kind)(reference)
        with pytest.raises(MediaLimitError) as remembered:
            getattr(MediaProber(limited, cache), kind)(reference)
        with pytest.raises(MediaLimitError) as probed:
            probe(reference, limited)
        assert str(remembered.value) == str(probed.value)


def test_errors_are_not_remembered(tmp_path, cache):
    path = tmp_path / "photo.png"
    path.write_bytes(b"no image")
    prober = MediaProber(OPTIONS, cache)
    for _ in range(2):
        with pytest.raises(MediaDecodeError):
            prober.image(path)
    cache.flush()
    assert cache.counts().entries == 0


def test_without_a_cache_nothing_is_remembered(tmp_path):
    path = write_image(tmp_path / "photo.png", 20, 10)
    prober = MediaProber(OPTIONS)
    assert prober.image(path).width == 20
    prober.flush()
    path.unlink()
    with pytest.raises(MediaNotFoundError, match="no such file"):
        prober.image(path)
