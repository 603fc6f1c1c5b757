"""Tokenising a dataset again, for another model or budget, opens no media file: what was probed is remembered."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MMDatasetsError
from mmdatasets.media.cache import MetadataCache
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, encode_video
from tests.media.web_server import serving

REPOSITORY = Path(__file__).parents[2]
NUM_ROWS = 8

# Counts each opening of a media file, by this process or one that it makes, and maps as it is told.
PROGRAM = """
import json, os, sys
import datasets
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.processors import build_processor

media, cache, log = sys.argv[1:]
datasets.disable_progress_bars()
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(media):
        os.write(log, f"{os.getpid()} {arguments[0]}\\n".encode())

sys.addaudithook(count)
for settings in map(json.loads, sys.stdin):
    options = MediaOptions(use_audio_in_video=True, media_root=media, **settings["options"])
    processor = build_processor(settings["family"])
    plugin = auto_plugin(processor, options=options, metadata_cache=cache if settings["cache"] else None)
    dataset = datasets.Dataset.from_json(os.path.join(os.path.dirname(media), "rows.jsonl"))
    mapped = dataset.map(
        plugin.transform, batched=True, batch_size=3, num_proc=settings["num_proc"], load_from_cache_file=False
    )
    os.write(log, b"map\\n")
    print(json.dumps([mapped["input_ids"][:], mapped["media_info"][:]]), flush=True)
"""


def rows_with_all_media(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    videos = [encode_video(VideoSpec(num_frames=24, audio_codec="aac")), encode_video(VideoSpec(num_frames=30))]
    for number in range(NUM_ROWS):
        write_image(folder / f"{number}.jpg", 100 + 10 * number, 80)
        (folder / f"{number}.mp4").write_bytes(videos[number % 2])
        write_audio(folder / f"{number}.mp3", 16_000, 1 + number / 10)
        text = "<image><video><audio>What is all this?"
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Media."}]
        images, clips, audios = ([f"{number}.{suffix}"] for suffix in ("jpg", "mp4", "mp3"))
        rows.append({"messages": messages, "images": images, "videos": clips, "audios": audios})
    return rows


@pytest.mark.slow
def test_no_file_is_opened_for_another_model_or_budget_or_process(tmp_path):
    media = tmp_path / "media"
    rows = rows_with_all_media(media)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    budget = {"image_max_pixels": 50_000, "video_max_pixels": 20_000, "video_fps": 4.0}
    runs = [
        {"family": "qwen2_5_omni", "options": {}, "cache": True, "num_proc": 2},
        {"family": "qwen2_5_omni", "options": {}, "cache": True, "num_proc": None},
        {"family": "qwen3_omni_moe", "options": {}, "cache": True, "num_proc": None},
        {"family": "qwen2_5_omni", "options": budget, "cache": True, "num_proc": 2},
        {"family": "qwen3_omni_moe", "options": {}, "cache": False, "num_proc": None},
        {"family": "qwen2_5_omni", "options": budget, "cache": False, "num_proc": None},
    ]
    command = [sys.executable, "-c", PROGRAM, str(media), str(tmp_path / "cache"), str(tmp_path / "log")]
    done = subprocess.run(
        command,
        input="\n".join(map(json.dumps, runs)),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=300,
        check=False,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    opened = [part.splitlines() for part in (tmp_path / "log").read_text().split("map\n")[:-1]]
    files = {str(path) for path in media.iterdir()}
    assert len(files) == 3 * NUM_ROWS
    assert {line.split(" ", 1)[1] for line in opened[0]} == files  # by the two worker processes
    assert len({line.split(" ", 1)[0] for line in opened[0]}) == 2
    assert opened[1:4] == [[], [], []]
    assert {line.split(" ", 1)[1] for line in opened[4]} == files
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results[0] == results[1]
    assert results[2] == results[4]
    assert results[3] == results[5]
    assert results[0] != results[3]


def test_rows_are_the_same_and_the_second_map_reads_nothing(tmp_path):
    """Remote files: what is sent for them is counted."""
    with serving() as server:
        urls = [
            server.add(f"{number}.jpg", write_image(tmp_path / "photo.jpg", 60 + number, 50).read_bytes())
            for number in range(4)
        ]
        messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "It."}]
        dataset = Dataset.from_list([{"messages": messages, "images": [url]} for url in urls])
        processor, options = build_processor("qwen2_vl"), MediaOptions(allow_http=True, allow_private_addresses=True)
        expected = auto_plugin(processor, options=options).transform(dataset[:])
        sent = []
        for settings in ({}, {"image_max_pixels": 3136}):
            server.forget()
            own = MediaOptions(allow_http=True, allow_private_addresses=True, **settings)
            plugin = auto_plugin(processor, options=own, metadata_cache=str(tmp_path / "cache"))
            found = plugin.transform(dataset[:])
            sent.append(server.num_bytes)
            if not settings:
                assert found == expected
    assert sent[0] > 0
    assert sent[1] == 0
    assert {method for method, _ in server.requests} == {"HEAD"}


def test_the_directory_is_a_setting_that_travels_with_the_plugin(tmp_path):
    processor = build_processor("qwen2_vl")
    directory = str(tmp_path / "cache")
    plugin = auto_plugin(processor, metadata_cache=directory)
    copy = pickle.loads(pickle.dumps(plugin))
    assert copy.metadata_cache == directory
    assert Hasher.hash(copy) == Hasher.hash(plugin)
    assert not Path(directory).exists()  # nothing is made before it is needed
    photo = write_image(tmp_path / "photo.jpg", 60, 50)
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "It."}]
    for number, one in enumerate((plugin, copy)):
        one.transform({"messages": [messages], "images": [[str(photo)]]})
        cache = MetadataCache(directory)
        assert cache.counts().images == 1, number
    assert Hasher.hash(copy) == Hasher.hash(plugin)


def test_a_row_that_cannot_be_used_does_not_lose_what_was_read_before_it(tmp_path):
    photos = [str(write_image(tmp_path / f"{number}.jpg", 60, 50)) for number in range(3)]
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "It."}]
    batch = {"messages": [messages] * 4, "images": [[photo] for photo in [*photos, "missing.jpg"]]}
    plugin = auto_plugin(build_processor("qwen2_vl"), metadata_cache=str(tmp_path / "cache"))
    with pytest.raises(MMDatasetsError, match="no such file"):
        plugin.transform(batch)
    assert MetadataCache(tmp_path / "cache").counts().images == 3


@pytest.mark.parametrize("directory", ["", "s3://bucket/cache", 3])
def test_a_directory_that_is_none(directory):
    with pytest.raises(ValueError, match="metadata_cache must be a local directory"):
        auto_plugin(build_processor("qwen2_vl"), metadata_cache=directory)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    plugin = auto_plugin(build_processor("qwen2_vl"), metadata_cache=str(tmp_path / "file"))
    with pytest.raises(MMDatasetsError, match="the metadata cache cannot be used"):
        plugin.transform({"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]})
