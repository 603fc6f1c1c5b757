from __future__ import annotations

import datasets
import pytest

from mmdatasets import auto_plugin
from mmdatasets.testing.processors import build_processor


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture(scope="package")
def qwen_plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture
def qwen_dataset(image_file):
    """Eight chats, two of them without an image, mapped by nobody yet."""
    sizes = [(60, 60), (90, 60), None, (120, 60), (60, 90), None, (60, 120), (90, 90)]
    return datasets.Dataset.from_dict(
        {
            "messages": [chat(f"<image> {n}?" if size else f"nothing {n}") for n, size in enumerate(sizes)],
            "images": [[str(image_file(*size))] if size else [] for size in sizes],
        }
    )


@pytest.fixture
def qwen_rows(qwen_plugin, qwen_dataset):
    """`qwen_dataset`, mapped."""
    features = qwen_plugin.features(qwen_dataset.features)
    return qwen_dataset.map(qwen_plugin.transform, batched=True, features=features)
