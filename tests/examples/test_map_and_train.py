"""The example runs offline, as a script and with a checkpoint of one's own."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from datasets import load_from_disk

import mmdatasets.testing
from mmdatasets.testing import build_model, build_processor

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = Path(mmdatasets.testing.__file__).parent / "data"


def test_script_runs_offline(tmp_path):
    paths = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "map_and_train.py"), "--steps", "3"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "HF_HOME": str(tmp_path / "hf")},
    )
    mapped = load_from_disk(str(tmp_path / "example-output" / "mapped"))
    lines = (DATA / "chat.jsonl").read_text("utf-8").splitlines()
    assert [len(items) for items in mapped["media_info"]] == [len(json.loads(line)["images"]) for line in lines]
    assert f"row 0: {mapped[0]['length']} tokens" in done.stdout
    assert "pixel_values: (" in done.stdout
    assert re.search(r"mean loss of 3 steps: \d+\.\d+", done.stdout)
    assert mapped[0]["images"][0]["bytes"] == (DATA / "cat.jpg").read_bytes()


def test_own_checkpoint_and_data(tmp_path, monkeypatch, capsys):
    processor = build_processor("qwen3_vl")
    processor.save_pretrained(tmp_path / "checkpoint")
    build_model("qwen3_vl", processor).save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data").mkdir()
    shutil.copy(DATA / "coffee.jpg", tmp_path / "data")
    chat = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "Coffee."}]
    row = json.dumps({"messages": chat, "images": ["coffee.jpg"]})
    (tmp_path / "data" / "chat.jsonl").write_text(f"{row}\n{row}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / "map_and_train.py"))
    example["main"](["--processor", "checkpoint", "--data", "data/chat.jsonl", "--steps", "2", "--output", "out"])
    assert "mean loss of 2 steps" in capsys.readouterr().out
    mapped = load_from_disk(str(tmp_path / "out" / "mapped"))
    text = processor.tokenizer.decode(mapped[0]["input_ids"])
    assert "What is it?" in text
    assert "Coffee." in text


def test_readme_lists_every_script():
    text = (EXAMPLES / "README.md").read_text("utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE))
    assert "mmdatasets/testing/data/SOURCES.md" in text
    assert (DATA / "SOURCES.md").is_file()
