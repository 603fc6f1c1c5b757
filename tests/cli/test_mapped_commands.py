"""`mmdatasets report`, `check`, `pack` and `push`, on what `mmdatasets preprocess` wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from mmdatasets.cli.main import main
from mmdatasets.testing import build_processor
from tests.cli.installed import run_installed
from tests.integrations.loopback_hub import hub_environment, loopback_hub
from tests.shards.runs import write_chats

ROWS = 20


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor("qwen2_vl").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("source") / "chats", ROWS)


@pytest.fixture(scope="module")
def mapped(chats, processor, tmp_path_factory):
    output = tmp_path_factory.mktemp("mapped") / "out"
    assert main(["preprocess", str(chats), "--output", str(output), "--processor", processor, "--quiet"]) == 0
    return output


def test_a_report_of_mapped_rows_needs_no_processor(mapped, tmp_path, capsys):
    page = tmp_path / "pages" / "chats.html"
    arguments = ["report", str(mapped), "--output", str(page), "--time-media", "2", "--max-length", "64", "128"]
    assert main([*arguments, "--source-rows", str(ROWS + 1)]) == 0
    shown = capsys.readouterr().out
    assert "rows       20 rows" in shown
    assert "dropped    1 row (not_recorded)" in shown
    assert f"written    {page} and the JSON beside it" in shown
    data = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert [one["max_length"] for one in data["overflow"]] == [64, 128]
    assert len(data["slowest"]) == 2
    assert data["files"]["images"]["missing"] == 0
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_report_of_other_rows_maps_them(chats, processor, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(chats), "--processor", processor, "--json", "--time-media", "0"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["title"], data["slowest"]) == (ROWS, "chat.jsonl", [])
    assert not list(tmp_path.glob("*.html"))  # that was not asked for
    with pytest.raises(SystemExit) as raised:
        main(["report", str(chats)])
    assert raised.value.code == 2
    assert "--processor is needed" in capsys.readouterr().err


def test_check_lists_problems_and_exits_with_1(mapped, processor, tmp_path, capsys):
    assert main(["check", str(mapped), "--deep", "--quiet"]) == 0
    assert "20 rows, 24 media references, 24 items decoded: no problems" in capsys.readouterr().out
    assert main(["check", str(mapped), "--deep", "--processor", processor, "--quiet"]) == 0
    capsys.readouterr()
    rows = load_rows(mapped)
    lost = rows[0]["images"][0]["path"]
    moved = rows.map(lambda row: {"images": [{**item, "path": item["path"] + ".gone"} for item in row["images"]]})
    pq.write_table(moved.with_format("arrow")[:], tmp_path / "moved.parquet")  # datasets' own would look for the files
    capsys.readouterr()
    assert main(["check", str(tmp_path / "moved.parquet"), "--json", "--max-problems", "1", "--quiet"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["num_problems"], result["counts"]) == (24, {"missing": 24})
    (problem,) = result["problems"]
    assert (problem["row"], problem["column"], problem["index"]) == (0, "images", 0)
    assert problem["source"] == f"{lost}.gone"


def test_a_check_of_packed_rows_and_of_no_mapped_ones(mapped, chats, processor, tmp_path, capsys):
    packed = tmp_path / "packed"
    assert main(["pack", str(mapped), "--max-length", "300", "--output", str(packed), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows, made = load_rows(mapped), load_rows(packed)
    assert made[0]["images"][0]["bytes"] is None  # media stays where it is
    assert (said["rows"], said["packed_rows"]) == (ROWS, len(made))
    assert said["tokens"] == sum(rows["length"]) == sum(made["length"])
    assert said["fill"] == pytest.approx(sum(rows["length"]) / (300 * len(made)), abs=1e-6)
    assert main(["check", str(packed), "--deep", "--processor", processor, "--quiet"]) == 0
    assert main(["report", str(packed), "--json"]) == 0
    capsys.readouterr()
    assert main(["check", str(chats), "--quiet"]) == 1
    assert "was not mapped" in capsys.readouterr().err


def test_pack_refuses_what_it_must(mapped, tmp_path, capsys):
    output = tmp_path / "packed"
    arguments = ["pack", str(mapped), "--output", str(output), "--max-length"]
    assert main([*arguments, "10"]) == 1
    assert "more than max_length=10" in capsys.readouterr().err
    assert not output.exists()
    output.mkdir()
    assert (
        main([*arguments, "500", "--strategy", "sequential", "--max-patches", "200"]) == 0
    )  # an empty folder will do
    assert "(sequential)" in capsys.readouterr().out
    assert main([*arguments, "500"]) == 1
    assert "there already, and not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_push_says_what_is_wrong_and_not_the_token(mapped, chats, capsys):
    token = "hf_secret"
    assert main(["push", str(mapped), "a b/c", "--token", token]) == 1
    error = capsys.readouterr().err
    assert "cannot push" in error
    assert token not in error
    assert main(["push", str(chats), "you/chats"]) == 1
    assert "does not say what made it" in capsys.readouterr().err


def load_rows(output: Path):
    return load_dataset(str(output), split="train")


@pytest.mark.slow  # each start of the interpreter takes seconds
class TestInstalled:
    def test_report(self, mapped, tmp_path):
        done = run_installed("report", mapped, "--json", "--time-media", "0", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == ROWS

    def test_pack_and_check(self, mapped, tmp_path):
        done = run_installed("pack", mapped, "--max-length", "300", "--output", "packed", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0].startswith("rows     20, packed into ")
        shutil.rmtree(tmp_path / "hf-cache")
        done = run_installed("check", "packed", cwd=tmp_path)
        assert (done.returncode, done.stdout.rpartition(": ")[2]) == (0, "no problems\n")

    def test_push(self, mapped, tmp_path):
        with loopback_hub() as hub:
            environment = hub_environment(hub, tmp_path / "home")
            arguments = ["push", mapped, "tester/chats", "--private", "--to-split", "validation", "--num-shards", "2"]
            done = run_installed(*arguments, "--json", "--token", "hf_test", cwd=tmp_path, environment=environment)
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert (said["repo_id"], said["split"], said["rows"]) == ("tester/chats", "validation", ROWS)
            files = hub.repositories["tester/chats"].files(None)
            assert len([name for name in files if name.startswith("data/validation-")]) == 2
            assert "| validation | 20 |" in hub.card("tester/chats")
        assert "hf_test" not in done.stdout + done.stderr

    def test_demo(self, tmp_path):
        done = run_installed("demo", "--steps", "1", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["family"], said["rows"], said["media_items"]) == ("qwen2_vl", 14, 14)
        assert len(said["losses"]) == 1
        assert (tmp_path / said["output"] / "state.json").is_file()


def test_the_installed_cache_command(tmp_path):
    done = run_installed("cache", ".", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["entries"]) == (0, 0)
