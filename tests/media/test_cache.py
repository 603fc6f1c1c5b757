from __future__ import annotations

import logging
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.errors import MMDatasetsError
from mmdatasets.media.cache import MetadataCache, choose_to_merge
from mmdatasets.media.segments import SCHEMA, SegmentFile
from mmdatasets.types import AudioInfo, ImageInfo, VideoInfo
from tests.media.cache_cases import fill, info_of, key_of

REPOSITORY = Path(__file__).parents[2]


def bits(info: object) -> list[object]:
    """All that an info says, floats as their bits."""
    said: list[object] = [type(info)]
    for field in fields(info):
        value = getattr(info, field.name)
        if isinstance(value, np.ndarray):
            value = (value.dtype, value.tobytes())
        elif isinstance(value, float):
            value = struct.pack("d", value)
        said.append((type(value), value))
    return said


def check(cache: MetadataCache, numbers: range) -> int:
    """How many of these entries there are; each must be what was put."""
    found = {number: cache.get(key_of(number)) for number in numbers}
    for number, info in found.items():
        assert info is None or bits(info) == bits(info_of(number))
    return sum(info is not None for info in found.values())


# ------------------------------------------------------------------------------------------------ what comes out

COUNTS, POSITIVE = st.integers(0, 2**63 - 1), st.integers(1, 2**40)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
MAYBE = st.none()
IMAGES = st.builds(ImageInfo, POSITIVE, POSITIVE)
AUDIOS = st.builds(AudioInfo, POSITIVE, POSITIVE, COUNTS, FLOATS, MAYBE | COUNTS)


@st.composite
def videos(draw: st.DrawFn) -> VideoInfo:
    times = draw(st.none() | st.lists(FLOATS, min_size=1, max_size=20))
    return VideoInfo(
        draw(POSITIVE),
        draw(POSITIVE),
        draw(POSITIVE) if times is None else len(times),
        None if times is None else np.array(times, dtype=np.float64),
        draw(MAYBE | FLOATS),
        draw(MAYBE | FLOATS),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(FLOATS),
        draw(MAYBE | COUNTS),
        draw(MAYBE | FLOATS),
    )


@given(
    entries=st.dictionaries(st.binary(min_size=16, max_size=16), IMAGES | videos() | AUDIOS, min_size=1, max_size=8)
)
def test_what_comes_out_is_what_went_in(entries, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    cache = MetadataCache(directory)
    for key, info in entries.items():
        cache.put(key, info, "x\ud800")
    assert [bits(cache.get(key)) for key in entries] == [bits(info) for info in entries.values()]
    cache.flush()
    for reader in (cache, MetadataCache(directory)):
        assert [bits(reader.get(key)) for key in entries] == [bits(info) for info in entries.values()]
        assert reader.get(b"no such key here") is None
    cache.compact()
    assert [bits(cache.get(key)) for key in entries] == [bits(info) for info in entries.values()]


def test_keys_that_begin_and_end_alike_are_told_apart(tmp_path):
    keys = [b"\0" * 16, b"\0" * 15 + b"\1", b"\1" + b"\0" * 15, b"\xff" * 16, b"\xff" * 15 + b"\0"]
    cache = MetadataCache(tmp_path)
    for side, key in enumerate(keys, start=1):
        cache.put(key, ImageInfo(side, side), "")
    cache.flush()
    assert [cache.get(key) for key in keys] == [ImageInfo(side, side) for side in range(1, 6)]
    assert cache.get(b"\0" * 14 + b"\1\0") is None


def test_numbers_that_no_column_holds_are_not_kept(tmp_path):
    cache = MetadataCache(tmp_path)
    cache.put(key_of(0), AudioInfo(8000, 1, 1, stated_num_samples=2**64), "")
    cache.put(key_of(1), AudioInfo(8000, 1, 1), "")
    cache.flush()
    assert cache.get(key_of(0)) is None
    assert cache.get(key_of(1)) == AudioInfo(8000, 1, 1)


# ----------------------------------------------------------------------------------------------- its files


def test_files_are_merged_and_everything_is_still_found(tmp_path):
    other = MetadataCache(tmp_path)
    cache = fill(tmp_path, range(300))
    assert len(list(tmp_path.glob("*.arrow"))) <= 17
    assert check(cache, range(300)) == 300
    assert (cache.hits, cache.misses) == (300, 0)
    other.put(key_of(1000), info_of(1000), "")
    other.flush()  # learns what the other one wrote
    assert check(other, range(300)) == 300
    cache.compact()
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    assert check(MetadataCache(tmp_path), range(1001)) == 301


def test_it_stays_below_its_bound_and_forgets_the_oldest(tmp_path):
    cache = fill(tmp_path, range(500), max_bytes=30_000)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.arrow")) <= 30_000
    assert check(cache, range(490, 500)) == 10
    assert check(cache, range(250)) == 0
    cache = MetadataCache(tmp_path, max_bytes=10_000)
    cache.compact()
    assert cache.counts().num_bytes <= 10_000
    with pytest.raises(ValueError, match="max_bytes"):
        MetadataCache(tmp_path, max_bytes=0)


def test_merging_takes_the_small_files():
    def files(*sizes: int) -> list[SegmentFile]:
        return [SegmentFile(number, size, str(number)) for number, size in enumerate(sizes)]

    small = [10] * 17
    assert choose_to_merge(files(1000, *small, 5000), 4000) == files(1000, *small)[1:]
    assert choose_to_merge(files(200, *small), 4000) == files(200, *small)
    assert len(choose_to_merge(files(*(3**power for power in range(17))), 3**17)) > 8
    assert choose_to_merge(files(4000, 5000), 4000) == []


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "cut off":
        del data[len(data) // 2 :]
    elif how == "zeros":
        data[64:] = bytes(len(data) - 64)
    path.write_bytes(b"" if how == "empty" else data)


@pytest.mark.parametrize("how", ["flipped", "cut off", "zeros", "empty"])
def test_a_damaged_file_is_not_used_and_a_warning_says_so(tmp_path, caplog, how):
    fill(tmp_path, range(5))
    (first,) = tmp_path.glob("*.arrow")
    fill(tmp_path, range(5, 10))
    damage(first, how)
    with caplog.at_level(logging.WARNING):
        cache = MetadataCache(tmp_path)
        assert check(cache, range(10)) == 5
    assert f"damaged and not used, its media is probed again: {first}" in caplog.text
    caplog.clear()
    cache.put(key_of(0), info_of(0), "")
    cache.compact()
    assert check(cache, range(10)) == 6
    assert not first.exists()
    assert caplog.text == ""


def test_a_directory_that_cannot_be_used(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MMDatasetsError, match="metadata cache cannot be used") as caught:
        MetadataCache(tmp_path / "file")
    assert caught.value.source == str(tmp_path / "file")
    cache = fill(tmp_path / "cache", range(5))
    shutil.rmtree(tmp_path / "cache")
    cache.put(key_of(6), info_of(6), "")
    cache.flush()
    assert "cannot be written" in caplog.text
    assert check(cache, range(5)) == 5  # what is open stays readable


def test_what_it_holds_can_be_looked_at(tmp_path):
    cache = fill(tmp_path, range(3))
    cache.put(key_of(10), ImageInfo(4, 3), "photo.jpg")
    cache.put(key_of(11), AudioInfo(8000, 2, 100), "sound.wav")
    table = cache.table()
    assert table.schema.equals(SCHEMA)
    rows = {row["source"]: row for row in table.to_pylist()}
    assert rows["photo.jpg"]["width"] == 4
    assert rows["photo.jpg"]["fps"] is None
    assert rows["sound.wav"]["num_channels"] == 2
    assert rows["video 2"]["timestamps_s"] == info_of(2).timestamps_s.tolist()
    counts = cache.counts()
    assert (counts.images, counts.videos, counts.audios, counts.entries) == (1, 3, 1, 5)
    assert counts.num_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.arrow"))
    assert MetadataCache(tmp_path / "empty").counts().entries == 0


# ------------------------------------------------------------------------------------------ several processes

WRITER = """
import sys
from pathlib import Path
from tests.media.cache_cases import fill
first, last = map(int, sys.argv[2:])
fill(Path(sys.argv[1]), range(first, first + 5))
print("writing", flush=True)
fill(Path(sys.argv[1]), range(first, last))
"""


def start_writer(directory: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), str(first), str(last)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_fill_one_cache_at_once(tmp_path):
    writers = [start_writer(tmp_path, first, first + 400) for first in (0, 200)]
    for writer in writers:
        _, problems = writer.communicate(timeout=60)
        assert (writer.returncode, problems) == (0, "")
    cache = MetadataCache(tmp_path)
    assert check(cache, range(600)) == 600
    assert cache.counts().entries == 600
    assert cache.counts().num_files <= 18


def test_processes_that_are_killed_leave_a_cache_that_works(tmp_path, caplog):
    """Each is killed while it, and the others, write and merge."""
    writers = [start_writer(tmp_path, first, 1_000_000) for first in (0, 0, 100)]
    for attempt, writer in enumerate(writers):
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        time.sleep(random.Random(attempt).uniform(0.02, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL
        with caplog.at_level(logging.WARNING):
            cache = MetadataCache(tmp_path)
            num_before = check(cache, range(200))
        assert num_before >= 5
        assert caplog.text == ""
    cache = fill(tmp_path, range(500_000, 500_100))
    assert check(cache, range(500_000, 500_100)) == 100
    assert check(cache, range(200)) >= num_before
    cache.compact()
    assert caplog.text == ""
    # Each of those that stay is more than twice as large as all that are smaller.
    assert len(list(tmp_path.glob("*.arrow"))) <= 4
