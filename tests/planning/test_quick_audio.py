from __future__ import annotations

import numpy as np
import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.quick_audio import without_spectrograms
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import AudioShape, Expansion, MediaInput

RATE = 16_000
WHISPER = ["qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "audioflamingo3", "glmasr", "musicflamingo"]
GEMMA = ["gemma3n", "gemma4"]


def lengths(count: int, longest_s: float) -> list[int]:
    """Random lengths, the shortest ones, and those around whole frames and seconds."""
    random = np.random.default_rng(0)
    around = [base + step for base in (160, 320, 1600, RATE, 2 * RATE) for step in (-1, 0, 1)]
    return [1, 2, *around, *random.integers(1, int(longest_s * RATE), count).tolist()]


def outcome(plan, shape: AudioShape) -> Expansion | str:
    try:
        made: Expansion = plan(shape)
    except MediaProcessorError:
        return "refused"
    return made


@pytest.mark.parametrize("name", WHISPER + GEMMA)
def test_dry_runs_without_spectrogram_say_what_real_runs_say(name: str) -> None:
    runner = ProcessorRunner(build_processor(name))
    random = np.random.default_rng(1)
    for num_samples in lengths(6, 29):
        shape = AudioShape(num_samples)
        noise = random.uniform(-1, 1, num_samples).astype(np.float32)
        real = outcome(lambda shape, noise=noise: runner.process([[MediaInput(shape, noise)]])[1][0], shape)
        if isinstance(real, Expansion) and not real.runs:
            real = "refused"
        assert outcome(lambda shape: runner.plan([shape])[0], shape) == real, num_samples


@pytest.mark.parametrize(("name", "count"), [("qwen2_audio", 300), ("qwen2_5_omni", 20), ("qwen3_omni_moe", 200)])
def test_quick_plans_equal_dry_runs(name: str, count: int) -> None:
    check_quick_plans(name, lengths(count, 29))


@pytest.mark.parametrize(
    ("name", "longest_s"),
    [
        pytest.param("qwen2_audio", 30, marks=pytest.mark.slow),
        pytest.param("qwen2_5_omni", 300, marks=pytest.mark.long),
        pytest.param("qwen3_omni_moe", 600, marks=pytest.mark.long),
    ],
)
def test_quick_plans_equal_dry_runs_over_thousands_of_lengths(name: str, longest_s: float) -> None:
    check_quick_plans(name, lengths(2000, longest_s))


def check_quick_plans(name: str, counts: list[int]) -> None:
    plugin = auto_plugin(build_processor(name))
    runner = plugin.engine.runner
    for num_samples in counts:
        shape = AudioShape(num_samples)
        plain = outcome(lambda shape: runner.plan([shape])[0], shape)
        assert outcome(plugin.engine.media.expand_one, shape) == plain, num_samples
        canonical = plugin.canonical_audio(runner, shape)
        assert plugin.canonical_audio(runner, canonical) == canonical


@pytest.mark.parametrize("name", GEMMA)
def test_quick_extractors_give_the_shapes_and_masks_of_their_originals(name: str) -> None:
    processor = build_processor(name)
    real, quick = processor.feature_extractor, without_spectrograms(processor).feature_extractor
    assert quick is not real
    random = np.random.default_rng(2)
    for num_samples in [*lengths(20, 31), 30 * RATE - 1, 30 * RATE, 30 * RATE + 1]:
        other = random.uniform(-1, 1, RATE).astype(np.float32)
        batch = [random.uniform(-1, 1, num_samples).astype(np.float32), other]
        expected, made = real(batch, return_tensors="np"), quick(batch, return_tensors="np")
        assert made["input_features"].shape == expected["input_features"].shape
        assert np.array_equal(made["input_features_mask"], expected["input_features_mask"])
