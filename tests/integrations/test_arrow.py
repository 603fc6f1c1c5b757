"""Batches of engines that know nothing of `datasets`."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from datasets import Dataset

from mmdatasets import auto_plugin
from mmdatasets.errors import MediaNotFoundError
from mmdatasets.integrations.arrow import ArrowTransform
from mmdatasets.testing.processors import build_processor


def chat(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture
def source(image_file):
    image = str(image_file(60, 60))
    return Dataset.from_dict(
        {"messages": [chat("<image>"), chat("none"), chat("<image>")], "images": [[image], [], [image]]}
    )


@pytest.fixture
def plain(source) -> pa.Table:
    """The rows as Ray, Spark and Daft have them: without metadata, the columns in another order."""
    return source.data.table.select(["images", "messages"]).replace_schema_metadata(None)


@pytest.fixture
def expected(plugin, source):
    return source.map(plugin.transform, batched=True, features=plugin.features(source.features))


def test_plain_tables(plugin, source, plain, expected) -> None:
    transform = pickle.loads(pickle.dumps(ArrowTransform(plugin, source.features)))
    mapped = transform(plain)
    assert mapped.to_pylist() == expected.to_list()
    assert mapped.schema == transform.schema == plugin.features(source.features).arrow_schema
    assert transform(plain.slice(0, 0)).schema == transform.schema


def test_streams_of_batches(plugin, source, plain, expected) -> None:
    transform = ArrowTransform(plugin, source.features)
    batches = [*plain.slice(0, 2).to_batches(), *plain.slice(0, 0).to_batches(), *plain.slice(2).to_batches()]
    found = pa.Table.from_batches(transform.map_in_arrow(batches), transform.schema)
    assert found.to_pylist() == expected.to_list()


def test_preference_data(plugin, image_file) -> None:
    image = str(image_file(60, 60))
    rows = {"prompt": [chat("<image>")[:1]], "chosen": [chat("")[1:]], "rejected": [chat("")[1:]], "images": [[image]]}
    pairs = Dataset.from_dict(rows)
    transform = ArrowTransform(plugin, pairs.features, preference=True)
    expected = pairs.map(
        plugin.preference_transform, batched=True, features=plugin.preference_features(pairs.features)
    )
    assert transform(pairs.data.table.replace_schema_metadata(None)).to_pylist() == expected.to_list()


def test_a_row_that_cannot_be_used(plugin) -> None:
    broken = Dataset.from_dict({"messages": [chat("<image>")], "images": [["/no/such.jpg"]]})
    with pytest.raises(MediaNotFoundError, match="row 0 of the batch"):
        ArrowTransform(plugin, broken.features)(broken.data.table)
