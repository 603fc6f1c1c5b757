"""`mmdatasets preview` on data files and mapped datasets, also through the command that the package installs."""

from __future__ import annotations

import json

import pytest
from datasets import load_dataset, load_from_disk

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.cli.main import main
from mmdatasets.testing import build_processor
from tests.cli.installed import run_installed
from tests.shards.runs import write_chats


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor("qwen2_vl").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 6)


@pytest.fixture
def mapped(chats, tmp_path):
    plugin = auto_plugin(
        build_processor("qwen2_vl"), options=MediaOptions(image_max_pixels=4704, media_root=str(chats.parent))
    )
    rows = load_dataset("json", data_files=str(chats), split="train", cache_dir=str(tmp_path / "cache"))
    made = rows.map(plugin.transform, batched=True, features=plugin.features(rows.features))
    made.save_to_disk(tmp_path / "mapped")
    return tmp_path / "mapped", load_from_disk(str(tmp_path / "mapped")), plugin


@pytest.mark.slow
def test_the_installed_command(mapped, processor, tmp_path):
    folder, made, plugin = mapped
    page = tmp_path / "pages" / "row.html"
    done = run_installed("preview", folder, "--row", "2", "--processor", processor, "--out", page, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("rror")) == (0, 0)
    assert done.stdout.startswith(f"{page}: ")
    # The dataset says by itself how it was mapped.
    assert page.read_text("utf-8") == plugin.preview(made[2], names=["row 2"]).html
    wrong = run_installed("preview", folder, "--row", "-1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "must be at least 0" in wrong.stderr


def test_rows_that_are_not_mapped_are_mapped_by_the_options(chats, mapped, processor, capsys):
    _, made, plugin = mapped
    arguments = ["preview", str(chats), "--rows", "1:3", "--processor", processor]
    assert main([*arguments, "--image-max-pixels", "4704"]) == 0
    shown = capsys.readouterr().out
    for number in (1, 2):
        assert f"row {number}: {made[number]['length']:,} tokens" in shown
        assert f"It is {number * number}.<|im_end|>" in shown
    assert plugin.preview(made[1]).facts.rows[0].media[0].label in shown
    assert main([*arguments, "--json", "--train-on", "all"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["row 1", "row 2"]
    for row in rows:
        (sequence,) = row["sequences"]
        assert sequence["num_trained"] == sequence["num_tokens"] - sum(info["num_tokens"] + 2 for info in row["media"])


def test_json_and_a_page_at_once(mapped, processor, tmp_path, capsys):
    folder, made, _ = mapped
    page = tmp_path / "row.html"
    assert main(["preview", str(folder), "--processor", processor, "--json", "--out", str(page)]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["sequences"][0]["num_tokens"] == made[0]["length"]
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_errors_are_said_in_words_and_by_the_status(chats, mapped, processor, tmp_path, capsys):
    folder = mapped[0]
    assert main(["preview", str(folder)]) == 1
    assert "pass --processor NAME_OR_DIR" in capsys.readouterr().err
    assert main(["preview", str(folder), "--row", "99", "--processor", processor]) == 1
    assert "there is no row 99: the dataset has 6, from 0 on" in capsys.readouterr().err
    assert main(["preview", str(tmp_path / "none.jsonl"), "--processor", processor]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["preview", str(folder), "--processor", processor, "--out", str(tmp_path)]) == 1
    assert "cannot write the page" in capsys.readouterr().err
    other = build_processor("qwen2_vl")
    other.image_processor.size = {"shortest_edge": 3136, "longest_edge": 1_003_520}
    other.save_pretrained(tmp_path / "other")
    assert main(["preview", str(folder), "--processor", str(tmp_path / "other")]) == 1
    assert "made with another processor" in capsys.readouterr().err
    for wrong, words in [
        (["preview", str(chats)], "--processor is needed"),
        (["preview", str(chats), "--rows", "3:2"], "expected A:B"),
        (["preview", str(chats), "--rows", "x"], "expected A:B"),
        (["preview", str(chats), "--row", "1", "--rows", "0:2"], "not allowed with"),
        (["preview", str(chats), "--processor", processor, "--family", "nope"], "nope"),
    ]:
        with pytest.raises(SystemExit) as raised:
            main(wrong)
        assert raised.value.code == 2
        assert words in capsys.readouterr().err
