"""The example of preference data runs offline, with each trainer and with data of one's own."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

import mmdatasets.testing

EXAMPLE = Path(__file__).parents[2] / "examples" / "preference_trl.py"
DATA = Path(mmdatasets.testing.__file__).parent / "data"
SHOWN = {"dpo": "completion_mask: (4, ", "reward": "pixel_values: (", "kto": "KL_input_ids: (2, "}


@pytest.mark.parametrize("trainer", SHOWN)
def test_each_trainer(trainer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE))["main"](["--tiny", "--trainer", trainer])
    shown = capsys.readouterr().out
    assert SHOWN[trainer] in shown
    assert re.search(r"mean loss of 2 steps: \d+\.\d+", shown)


def test_own_data(tmp_path, monkeypatch, capsys):
    shutil.copy(DATA / "cat.jpg", tmp_path)
    row = {
        "conversations": [{"from": "human", "value": "<image>What?"}],
        "chosen": {"from": "gpt", "value": "A cat."},
        "rejected": {"from": "gpt", "value": "A dog."},
        "images": ["cat.jpg"],
    }
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(row)}\n" * 2, "utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE))["main"](["--tiny", "--data", "pairs.jsonl", "--steps", "1"])
    assert "mean loss of 1 steps" in capsys.readouterr().out
