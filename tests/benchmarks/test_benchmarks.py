"""The benchmarks run, and find the same token ids, tensors and samples on both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmdatasets.media import audio_torchcodec

REPOSITORY = Path(__file__).parents[2]


def has_torchcodec():
    """Whether it is installed and finds an FFmpeg."""
    return not audio_torchcodec._find_problem()


VIDEO_DECODERS = ["sequential PyAV", *["torchcodec"] * has_torchcodec(), *["decord"] * bool(find_spec("decord"))]


@pytest.mark.slow  # each starts an interpreter and imports torch and transformers
@pytest.mark.parametrize(
    ("script", "options", "contestants"),
    [
        ("map_stage.py", ["--rows", "3", "--large-rows", "1"], ["processor.apply_chat_template", "plugin.transform"]),
        (
            "map_videos.py",
            ["--rows", "2", "--files", "1", "--seconds", "1", "--family", "qwen3_vl"],
            ["load_video, processor(...)", "plugin.transform"],
        ),
        (
            "video_decode.py",
            ["--seconds", "1", "--counts", "2", "--gops", "12"],
            [*VIDEO_DECODERS, "decode_frames"],
        ),
        (
            "collate_stage.py",
            ["--sizes", "320x240", "200x500"],
            ["processor(text, images)", "apply_chat_template", "plugin.collator"],
        ),
        (
            "retokenise.py",
            ["--rows", "10", "--seconds", "1"],
            ["first time, filling the cache", "again, without a cache", "again, from the cache"],
        ),
        (
            "materialise.py",
            ["--rows", "1", "--seconds", "1", "--size", "320x240", "--cases", "photos", "video-16", "audio"],
            ["originals", "quality=90", "processor alone", "plugin.materialise"],
        ),
    ],
)
def test_benchmark(script, options, contestants):
    results = run(script, options)
    cases = list(dict.fromkeys(result["case"] for result in results))
    assert [(result["case"], result["contestant"]) for result in results] == [
        (case, contestant) for case in cases for contestant in contestants
    ]


@pytest.mark.slow
def test_audio_benchmark():
    results = run("audio_decode.py", ["--seconds", "2", "--formats", "mp3", "wav", "m4a"])
    found = {(result["case"], result["contestant"]) for result in results}
    for format in ("mp3", "wav", "m4a"):
        assert {(f"decode 2 s of {format}", "decode_audio"), (f"length of 2 s of {format}", "probe_audio")} <= found
        assert ((f"decode 2 s of {format}", "load_audio, soundfile") in found) == (format != "m4a")


@pytest.mark.slow
def test_feeding_benchmark(tmp_path):
    """With tiny models, on the CPU; it compares ids and pixels itself."""
    path = tmp_path / "outcomes.json"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "feed_gpu.py"), "--tiny", "--files", "2"]
    command += ["--workers", "1", "--steps", "2", "--warm-up", "1", "--json", str(path)]
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": search_path()})
    outcomes = json.loads(path.read_text("utf-8"))
    assert [(one["case"], one["contestant"]) for one in outcomes] == [
        (case, contestant)
        for case in ("photos", "videos")
        for contestant in ("processor in the collator", "plugin.collator", "the same, materialised")
    ]
    assert all(one["samples_per_s"] > 0 and 0 <= one["waiting"] < 1 for one in outcomes)


@pytest.mark.slow
def test_preprocess_benchmark():
    """It compares the rows itself. Its memory is measured in further processes, which take long to start."""
    options = ["--cases", "speed", "--rows", "40", "--photos", "4", "--repeats", "1", "--json"]
    outcomes = outcomes_of("preprocess.py", options)
    assert [one["contestant"] for one in outcomes["speed"]] == ["map, to_parquet", "nothing to do", "preprocess"] * 2
    assert all(one["rate"] > 0 for one in outcomes["speed"])


@pytest.mark.slow
def test_packing_benchmark():
    results = outcomes_of("packing.py", ["--tiny", "--json"])
    plans = [one for one in results if one["case"] == "plan"]
    assert len(plans) == 6
    assert {one["contestant"].split(",")[0] for one in plans} == {"best_fit", "first_fit", "sequential"}
    fills = [one["fill"] for one in results if one["case"] == "fill"]
    assert fills == sorted(fills)


@pytest.mark.slow
def test_packed_training_benchmark(tmp_path):
    """With a tiny model, on the CPU, where all ways of computing a batch agree."""
    path = tmp_path / "outcomes.json"
    outcomes_of("pack_gpu.py", ["--tiny", "--json", str(path)], parse=False)
    outcomes = json.loads(path.read_text("utf-8"))
    assert [one["contestant"].split(", ")[0] for one in outcomes["speeds"]] == ["padded", "padded", "packed", "packed"]
    assert all(one["tokens_per_s"] > 0 for one in outcomes["speeds"])
    assert len(outcomes["differences"]) == 5
    assert all(one["loss"] < 1e-5 and one["worst_cosine"] > 0.99999 for one in outcomes["differences"])


@pytest.mark.slow
def test_decode_timeout_benchmark():
    """It compares the pixels itself."""
    outcomes = outcomes_of(
        "decode_timeout.py", ["--photos", "1", "--repetitions", "1", "--sizes", "64x48", "320x240", "--json"]
    )
    assert outcomes["start_s"] > 0
    assert [(one["case"], one["contestant"]) for one in outcomes["results"]] == [
        (f"{work} {size}", contestant)
        for size in ("64x48", "320x240")
        for work in ("probe_image", "decode_image")
        for contestant in ("here", "decode_timeout_s")
    ]
    assert all(one["ms"] > 0 for one in outcomes["results"])


def outcomes_of(script, options, *, parse=True):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), *options]
    environment = {**os.environ, "PYTHONPATH": search_path()}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout) if parse else None


def search_path():
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])


def run(script, options):
    command = [sys.executable, str(REPOSITORY / "benchmarks" / script), "--repeats", "1", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": search_path()}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    results = json.loads(done.stdout)
    assert all(result["rate"] > 0 for result in results)
    return results
