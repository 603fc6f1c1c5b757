from __future__ import annotations

import base64
import io
import os
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
import pytest

from mmdatasets.media.content import KEY_BYTES, content_key
from mmdatasets.options import MediaOptions

OPTIONS = MediaOptions()
DATA = b"what a file holds"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file.bin"
    file.write_bytes(DATA)
    return file


def test_every_way_to_name_a_file_gives_one_key(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    key = content_key(str(path), OPTIONS, "image")
    assert key is not None
    assert len(key) == KEY_BYTES
    ways = [path, path.as_uri(), {"path": str(path), "bytes": None}, {"path": path}, path.name, f"./{path.name}"]
    assert {content_key(way, OPTIONS, "image") for way in ways} == {key}
    assert content_key(path.name, MediaOptions(media_root=str(path.parent)), "image") == key


def test_bytes_are_known_by_what_they_are():
    key = content_key(DATA, OPTIONS, "audio")
    ways = [bytearray(DATA), memoryview(DATA), {"bytes": DATA, "path": "any.wav"}]
    assert {content_key(way, OPTIONS, "audio") for way in ways} == {key}
    assert content_key(DATA + b"\0", OPTIONS, "audio") != key
    uris = ["data:audio/wav;base64," + base64.b64encode(data).decode() for data in (DATA, DATA + b"\0")]
    assert len({content_key(uri, OPTIONS, "audio") for uri in uris} - {None}) == 2


def test_a_file_that_changes_gets_another_key(path):
    first = content_key(path, OPTIONS, "video")
    found = path.stat()
    path.write_bytes(DATA + b"!")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    longer = content_key(path, OPTIONS, "video")
    path.write_bytes(DATA)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    later = content_key(path, OPTIONS, "video")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert len({first, longer, later}) == 3
    assert content_key(path, OPTIONS, "video") == first


def test_what_is_probed_and_by_what_is_part_of_the_key(path):
    pyav = replace(OPTIONS, audio_backend="pyav")
    keys = [content_key(path, OPTIONS, modality) for modality in ("image", "video", "audio")]
    assert len({*keys, content_key(path, pyav, "audio")}) == 4
    assert content_key(path, pyav, "video") == keys[1]
    limited = replace(OPTIONS, image_pixel_limit=4, image_max_pixels=4, video_backend="decord", audio_max_duration_s=1)
    assert [content_key(path, limited, modality) for modality in ("image", "video", "audio")] == keys


def test_what_is_known_by_nothing_has_no_key(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with path.open("rb") as file:
        others = [file, io.BytesIO(DATA), np.zeros((4, 4), np.uint8), PIL.Image.new("L", (2, 2)), None, 3]
        others += [
            tmp_path / "missing",
            tmp_path,
            tmp_path / "pipe",
            "",
            "a\0b",
            "file://elsewhere/x",
            {},
            {"path": 3},
        ]
        others += [{"array": np.zeros(9), "sampling_rate": 8, "path": str(path)}, "http://127.0.0.1:9/x", "nosuch://x"]
        assert [content_key(other, OPTIONS, "audio") for other in others] == [None] * len(others)


def test_a_remote_file_is_known_by_its_address_and_version():
    for name in ("one", "two"):
        with fsspec.open(f"memory://{name}", "wb") as file:
            file.write(DATA)
    keys = [content_key(f"memory://{name}", OPTIONS, "image") for name in ("one", "one", "two")]
    assert keys[0] == keys[1] != keys[2]
    assert None not in keys
    with fsspec.open("memory://one", "wb") as file:
        file.write(DATA)
    assert content_key("memory://one", OPTIONS, "image") not in keys
    fsspec.filesystem("memory").store.clear()
