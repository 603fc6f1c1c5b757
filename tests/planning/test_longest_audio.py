"""Longer audio than a processor takes is never cut silently."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MediaError, MediaLimitError
from mmdatasets.planning.cut_audio import CutAudio
from mmdatasets.testing.processors import build_processor

STATED = {"qwen2_audio": 30, "qwen2_5_omni": 300, "gemma3n": 30, "gemma4": 30}
RATE = 16_000
UNSTATED = {"audioflamingo3": 600, "musicflamingo": 1200}


def transform(plugin, path) -> int:
    chat = [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "This."}]
    made = plugin.transform({"messages": [chat], "audios": [[str(path)]]})
    tokens: int = made["media_info"][0][0]["num_tokens"]
    return tokens


def silence(folder, seconds: float, rate: int):
    path = folder / f"{seconds}.wav"
    soundfile.write(path, np.zeros(round(seconds * rate), np.int16), rate)
    return path


@pytest.mark.parametrize(
    ("name", "longest_s"),
    [*STATED.items(), *(pytest.param(*case, marks=pytest.mark.slow) for case in UNSTATED.items())],
)
def test_longer_audio_is_refused(name: str, longest_s: int, tmp_path) -> None:
    plugin = auto_plugin(build_processor(name))
    rate = plugin.engine.runner.sampling_rate
    assert transform(plugin, silence(tmp_path, longest_s, rate))
    for seconds in (longest_s + 0.09, longest_s + 0.6, longest_s + 40):
        with pytest.raises(MediaLimitError, match=r"column 'audios', index 0 .*long_audio='truncate'"):
            transform(plugin, silence(tmp_path, seconds, rate))


def test_chunks_that_the_processor_would_cut_are_refused(tmp_path) -> None:
    options = MediaOptions(audio_max_duration_s=610, long_audio="chunk")
    plugin = auto_plugin(build_processor("audioflamingo3"), options=options)
    with pytest.raises(MediaLimitError, match=r"tokens of 610\.00 s of audio, and as many of 600\.0"):
        transform(plugin, silence(tmp_path, 1230, RATE))


@pytest.mark.parametrize(("limit", "samples_each", "at_a_time"), [
    (30 * RATE, 640, 1), (8 * RATE, 640, 1), (5 * RATE + 77, 1280, 1), (30 * RATE, 1600, 3),
])  # fmt: skip
def test_a_cut_of_a_token_or_more_is_noticed(limit: int, samples_each: int, at_a_time: int) -> None:
    step = samples_each * at_a_time
    check = CutAudio(lambda count: -(-min(count, limit) // step) * at_a_time, RATE).check
    for taken in (1, 100, step, RATE, limit - 9000, limit - step, limit - 1, limit):
        check(taken)
    for cut in (limit + step, limit + RATE // 4, limit + RATE, 3 * limit):
        with pytest.raises(MediaLimitError):
            check(max(cut, limit + step))


@pytest.mark.parametrize(
    "name",
    ["qwen3_omni_moe", "glmasr", "granite_speech", "gemma4_unified",
     *(pytest.param(name, marks=pytest.mark.slow)
       for name in ("qwen3_asr", "vibevoice_asr", "dots3_note", "moss_transcribe_diarize", "fun_asr_nano"))],
)  # fmt: skip
def test_other_processors_use_all_of_it_or_refuse(name: str, tmp_path) -> None:
    plugin = auto_plugin(build_processor(name))
    rate = plugin.engine.runner.sampling_rate
    counts = []
    for seconds in (45.0, 200.0, 700.0):
        try:
            counts.append(transform(plugin, silence(tmp_path, seconds, rate)))
        except MediaError:
            break
    assert counts == sorted(set(counts))
    steps = np.diff(counts) / np.diff((45.0, 200.0, 700.0)[: len(counts)])
    assert np.allclose(steps, steps[:1], rtol=0.02)
