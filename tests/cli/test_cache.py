from __future__ import annotations

import json

import pytest

from mmdatasets.cli.main import main
from mmdatasets.media.cache import MetadataCache
from mmdatasets.types import AudioInfo, ImageInfo
from tests.media.cache_cases import fill


@pytest.fixture
def directory(tmp_path):
    cache = fill(tmp_path / "cache", range(1200))
    cache.put(b"i" * 16, ImageInfo(3, 4), "photo.jpg")
    cache.put(b"a" * 16, AudioInfo(8000, 1, 4), "sound.wav")
    cache.flush()
    return tmp_path / "cache"


def test_it_shows_what_a_cache_holds(directory, capsys):
    assert main(["cache", str(directory)]) == 0
    images, videos, audio, size, probed = capsys.readouterr().out.splitlines()
    num_bytes = sum(file.stat().st_size for file in directory.glob("*.arrow"))
    assert images.split() == ["images", "1"]
    assert videos.split() == ["videos", "1,200"]
    assert audio.split() == ["audio", "1"]
    assert size.split()[:2] == ["bytes", f"{num_bytes:,}"]
    assert probed.startswith("probed from 20")


def test_it_prints_one_json_object(directory, capsys):
    assert main(["cache", str(directory), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["entries"] == 1202
    assert (said["images"], said["videos"], said["audios"]) == (1, 1200, 1)
    assert said["newest"] >= said["oldest"]
    assert "hits" not in said  # nothing was asked of this one


def test_it_makes_a_cache_smaller(directory, capsys):
    assert main(["cache", str(directory), "--json", "--max-bytes", "20000"]) == 0
    assert json.loads(capsys.readouterr().out)["num_bytes"] <= 20_000
    assert MetadataCache(directory).get(b"i" * 16) == ImageInfo(3, 4)  # one of the newest


def test_an_empty_directory_and_none(tmp_path, capsys):
    assert main(["cache", str(tmp_path)]) == 0
    assert "probed" not in capsys.readouterr().out
    assert main(["cache", str(tmp_path / "missing")]) == 1
    assert "no such directory" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()
    with pytest.raises(SystemExit):
        main(["cache", str(tmp_path), "--max-bytes", "0"])
