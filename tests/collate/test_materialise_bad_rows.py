"""Rows whose media cannot be materialised, by each policy: in `map`, and in `preprocess`."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from mmdatasets import auto_plugin, preprocess
from mmdatasets.cli.main import main
from mmdatasets.errors import MaterialiseError, MediaDecodeError, TooManyBadRowsError
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin
from mmdatasets.transforms.row_log import read_row_log
from tests.collate.conftest import chat

BAD = (1, 4)


@pytest.fixture
def source(image_file, tmp_path) -> datasets.Dataset:
    """Six rows, of which two have images whose headers alone are whole."""
    rows = []
    for number in range(6):
        path = image_file(60 + 30 * number, 60)
        if number in BAD:
            cut = tmp_path / f"cut{number}.png"
            cut.write_bytes(Path(path).read_bytes()[:-400])
            path = cut
        rows.append({"messages": chat(f"<image>{number}?"), "images": [str(path)], "id": number})
    return datasets.Dataset.from_list(rows)


@pytest.fixture
def tolerant(tmp_path):
    return auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=str(tmp_path / "log"))


def test_raise_names_the_row(source) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = source.map(plugin.transform, batched=True)
    with pytest.raises(MediaDecodeError, match=r"row 1, column 'images', index 0 \(.*cut1.png\)"):
        plugin.materialise(mapped[:], list(range(6)))


@pytest.mark.parametrize("way", ["arrow", "stream"])
def test_the_others_are_what_they_are_by_themselves(way, source, tolerant, tmp_path) -> None:
    good = [number for number in range(6) if number not in BAD]
    mapped = source.map(tolerant.transform, batched=True)
    assert len(mapped) == 6
    expected = mapped.select(good).map(tolerant.materialise, batched=True, batch_size=2)
    settings = {"batched": True, "batch_size": 4, "with_indices": True}
    if way == "stream":
        made = list(mapped.to_iterable_dataset().map(tolerant.materialise, **settings))
        assert [row["id"] for row in made] == good
        assert [row["images"][0]["bytes"] for row in made] == [row[0]["bytes"] for row in expected["images"]]
    else:
        made = mapped.map(tolerant.materialise, **settings)
        assert made.features == expected.features
        assert made[:] == expected[:]
    assert tolerant.bad_materialised.reasons == {"media_decode": 2}
    log = read_row_log(tmp_path / "log").to_pylist()
    assert [(row["row"], row["outcome"], row["reason"]) for row in log] == [
        (row, "dropped", "media_decode") for row in BAD
    ]
    assert log[0]["source"].endswith("cut1.png")


def test_too_many_stop_it(source) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="skip", max_bad_rows=1)
    mapped = source.map(plugin.transform, batched=True)
    with pytest.raises(TooManyBadRowsError, match="2 of the first 5 rows cannot be used"):
        plugin.materialise(mapped[:])


@pytest.mark.parametrize("num_proc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_preprocess_counts_them(num_proc, source, tolerant, tmp_path) -> None:
    settings = {"rows_per_shard": 3, "materialise": True, "progress": False}
    report = preprocess(source, tolerant, tmp_path / "out", num_proc=num_proc, **settings)
    assert (report.counts.rows_read, report.counts.rows_written) == (6, 4)
    assert report.counts.outcomes == {"dropped": {"media_decode": 2}}
    assert report.counts.media == {"image": 4}
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"][:] == [0, 2, 3, 5]
    assert read_row_log(tmp_path / "log")["row"].to_pylist() == list(BAD)
    with pytest.raises(MediaDecodeError, match="row 1, column 'images', index 0"):
        preprocess(source, auto_plugin(build_processor("qwen2_vl")), tmp_path / "raise", **settings)


def test_what_no_row_can_help_is_no_bad_row_and_may_be_kept(source, tmp_path) -> None:
    plugin = auto_plugin(build_standin("minicpm_v"), on_error="skip")
    rows = source.select([0, 2, 3])
    with pytest.raises(MaterialiseError, match=r"row 0, .*reads the original.*--unsupported keep"):
        preprocess(rows, plugin, tmp_path / "out", materialise=True, progress=False)
    report = preprocess(
        rows, plugin, tmp_path / "out", materialise=True, unsupported="keep", overwrite=True, progress=False
    )
    assert report.counts.rows_written == 3
    kept = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [images[0]["path"] for images in kept["images"]] == [images[0] for images in rows["images"]]
    manifest = json.loads((tmp_path / "out" / "preprocess-train.json").read_text("utf-8"))
    assert manifest["identity"]["output"]["unsupported"] == "keep"
    with pytest.raises(ValueError, match="unsupported is of what cannot be stored"):
        preprocess(rows, plugin, tmp_path / "no", unsupported="keep")


def test_the_option_of_the_command_line(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["preprocess", "x.jsonl", "--output", "y", "--processor", "z", "--unsupported", "keep"])
    assert "--unsupported is of --materialise" in capsys.readouterr().err
