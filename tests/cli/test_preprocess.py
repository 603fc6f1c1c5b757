"""`mmdatasets preprocess`, with a processor that was saved to a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_dataset

from mmdatasets.cli.main import main
from mmdatasets.testing import build_processor
from tests.shards.runs import contents, write_chats

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor("qwen2_vl").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 20)


def test_report_and_result(chats, processor, tmp_path, capsys):
    arguments = ["preprocess", str(chats), "--output", str(tmp_path / "out"), "--processor", processor]
    arguments += ["--max-length", "60", "--on-overflow", "drop", "--rows-per-shard", "6", "--image-max-pixels", "4704"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert 0 < len(rows) < 20
    assert max(rows["length"]) <= 60
    assert f"rows     20 read, {len(rows)} written\ndropped  {20 - len(rows)} (too_long: {20 - len(rows)})" in shown
    assert re.search(r"shards   4 in .*, 4 of them written now\ntime     [\d.]+ s, [\d,]+ rows/s\n$", shown)

    assert main([*arguments, "--json", "--num-proc", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows_read"], report["rows_written"], report["shards_written"]) == (20, len(rows), 0)
    assert report["outcomes"] == {"dropped": {"too_long": 20 - len(rows)}}


def test_bad_rows_by_policy(chats, processor, tmp_path, capsys):
    lines = chats.read_text("utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "images": ["photos/lost.jpg"] * 2})
    chats.write_text("\n".join(lines) + "\n", "utf-8")
    arguments = ["preprocess", str(chats), "--output", str(tmp_path / "out"), "--processor", processor]
    assert main(arguments) == 1
    assert "lost.jpg" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--on-error", "skip"]) == 0
    assert "rows     20 read, 19 written\ndropped  1 (media_not_found: 1)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--overwrite", "--on-error", "quarantine"])
    assert "needs row_log" in capsys.readouterr().err


def test_errors_are_said_in_words_and_by_the_status(chats, processor, tmp_path, capsys):
    arguments = ["preprocess", str(chats), "--output", str(tmp_path / "out"), "--processor", processor]
    assert main([*arguments, "--family", "qwen2_vl"]) == 0
    assert main([*arguments, "--train-on", "all"]) == 1
    error = capsys.readouterr().err
    assert 'plugin.train_on: "assistant" there, "all" now' in error
    assert "--overwrite" in error
    assert main([*arguments, "--train-on", "all", "--overwrite"]) == 0
    assert main([*arguments[:-1], str(tmp_path / "no-processor")]) == 1
    assert "no such folder; expected one made with processor.save_pretrained" in capsys.readouterr().err
    assert main(["preprocess", "missing.jsonl", *arguments[2:]]) == 1
    assert "missing.jsonl: no such file or folder" in capsys.readouterr().err
    for wrong, message in [
        (["--on-overflow", "drop"], "needs max_length"),
        (["--family", "qwen"], "no plugin is named 'qwen'; known: base"),
    ]:
        with pytest.raises(SystemExit) as raised:
            main([*arguments, *wrong])
        assert raised.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow  # starts two interpreters
def test_the_installed_command_is_killed_and_continued(chats, processor, tmp_path):
    arguments = ["preprocess", str(chats), "--processor", processor, "--rows-per-shard", "1", "--embed-media"]
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    command = [str(Path(sys.executable).with_name("mmdatasets")), *arguments, "--num-proc", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    settings = {"env": environment, "cwd": tmp_path}
    with subprocess.Popen([*command, "--output", "out"], start_new_session=True, **settings) as process:
        while not list((tmp_path / "out").glob("data/*.parquet")):
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    finished = len(list((tmp_path / "out").glob("data/*.parquet")))
    assert 0 < finished < 20
    done = subprocess.run([*command, "--output", "out", "--json"], check=True, capture_output=True, **settings)
    assert json.loads(done.stdout)["shards_written"] == 20 - finished
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
