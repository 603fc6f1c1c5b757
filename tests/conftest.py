from __future__ import annotations

import os

# Tests never ask a hub, whatever the machine allows. Set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import ProcessorMixin

from mmdatasets.plugins import registry
from mmdatasets.testing.media import write_image
from mmdatasets.testing.processors import build_processor

settings.register_profile(
    "mmdatasets",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mmdatasets")


def pytest_configure(config: pytest.Config) -> None:
    """Of several test processes each has one thread: more would wait for one another."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


QWEN_FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]

ImageFactory = Callable[..., Path]


@pytest.fixture(autouse=True)
def _isolated_dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


@pytest.fixture(params=QWEN_FAMILIES)
def processor(request: pytest.FixtureRequest) -> ProcessorMixin:
    return build_processor(request.param)


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> ImageFactory:
    """Makes a synthetic JPEG of a size, once a session for each size."""
    folder = tmp_path_factory.mktemp("images")

    def make(width: int, height: int, seed: int = 0) -> Path:
        path = folder / f"{width}x{height}-{seed}.jpg"
        if not path.exists():
            write_image(path, width, height, seed=seed)
        return path

    return make


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the media files of the conformance suite, which its cells share."""
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="session")
def trl_template() -> Callable[[str], str]:
    """Reads a published chat template, as the trl wheel ships them."""
    from importlib import resources

    folder = resources.files("trl").joinpath("chat_templates")
    return lambda name: folder.joinpath(f"{name}.jinja").read_text(encoding="utf-8")
