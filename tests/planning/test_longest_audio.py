"""Longer audio than a processor takes is never cut silently."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from mmdatasets import auto_plugin
from mmdatasets.errors import MediaError, MediaLimitError
from mmdatasets.testing.processors import build_processor

STATED = {"qwen2_audio": 30, "qwen2_5_omni": 300, "gemma3n": 30, "gemma4": 30}
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


@pytest.mark.parametrize(("name", "longest_s"), (STATED | UNSTATED).items())
def test_longer_audio_is_refused(name: str, longest_s: int, tmp_path) -> None:
    plugin = auto_plugin(build_processor(name))
    rate = plugin.engine.runner.sampling_rate
    assert transform(plugin, silence(tmp_path, longest_s, rate))
    for seconds in (longest_s + 0.6, longest_s + 40):
        with pytest.raises(MediaLimitError, match=r"column 'audios', index 0 .*long_audio='truncate'"):
            transform(plugin, silence(tmp_path, seconds, rate))


@pytest.mark.parametrize(
    "name",
    ["qwen3_omni_moe", "glmasr", "granite_speech", "gemma4_unified", "qwen3_asr", "vibevoice_asr", "dots3_note",
     "moss_transcribe_diarize", "fun_asr_nano"],
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
