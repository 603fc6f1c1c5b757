"""The fine-tuning examples run offline with tiny models, and with a checkpoint of one's own."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForImageTextToText

import mmdatasets.testing
from mmdatasets.testing import build_model, build_processor

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = Path(mmdatasets.testing.__file__).parent / "data"
SCRIPTS = {"finetune_qwen_vl": "qwen-vl", "finetune_trl": "trl", "finetune_audio": "audio"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), SCRIPTS.items())
def test_it_runs_offline(name, folder, tmp_path) -> None:
    paths = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--tiny", "--steps", "2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^\d+ rows, ", done.stdout, re.MULTILINE)
    losses = [float(loss) for loss in re.findall(r"'loss': '([\d.]+)'", done.stdout)]
    assert len(losses) == 2
    assert re.search(r"mean loss of 2 steps: \d+\.\d+", done.stdout)
    saved = {path.name for path in (tmp_path / "example-output" / folder).iterdir()}
    assert "adapter_model.safetensors" in saved if name == "finetune_trl" else "model.safetensors" in saved


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a checkpoint and a data file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(DATA / "coffee.jpg", tmp_path / "data")
    shutil.copy(DATA / "speech.flac", tmp_path / "data")

    def make(family: str, kind: str, file: str):
        processor = build_processor(family)
        processor.save_pretrained("checkpoint")
        model = build_model(family, processor)
        model.save_pretrained("checkpoint")
        chat = [{"role": "user", "content": f"<{kind}>What is it?"}, {"role": "assistant", "content": "Coffee."}]
        row = json.dumps({"messages": chat, f"{kind}s": [file]})
        Path("data/chat.jsonl").write_text(f"{row}\n{row}\n", "utf-8")
        return model

    return make


ARGUMENTS = ["--model", "checkpoint", "--data", "data/chat.jsonl", "--steps", "2", "--workers", "0", "--output", "out"]


def test_own_vision_model(own, capsys) -> None:
    model = own("qwen2_5_vl", "image", "coffee.jpg")
    example = runpy.run_path(str(EXAMPLES / "finetune_qwen_vl.py"))
    example["main"]([*ARGUMENTS, "--max-pixels", "40000", "--learning-rate", "0.01"])
    assert "mean loss of 2 steps" in capsys.readouterr().out
    before = dict(model.named_parameters())
    trained = AutoModelForImageTextToText.from_pretrained("out")
    changed = {name for name, parameter in trained.named_parameters() if not parameter.equal(before[name])}
    assert any("language_model" in name for name in changed)
    assert any("merger" in name for name in changed)
    assert not any("visual.blocks" in name for name in changed)


def test_own_model_with_an_adapter(own, capsys) -> None:
    own("qwen3_vl", "image", "coffee.jpg")
    example = runpy.run_path(str(EXAMPLES / "finetune_trl.py"))
    example["main"]([*ARGUMENTS, "--max-pixels", "40000", "--rank", "2"])
    assert "mean loss of 2 steps" in capsys.readouterr().out
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("checkpoint"), "out")
    matrices = {name for name, parameter in adapted.named_parameters() if "lora_B" in name and parameter.any()}
    assert matrices
    assert all("language_model" in name for name in matrices)


def test_own_audio_model(own, capsys) -> None:
    own("qwen2_audio", "audio", "speech.flac")
    runpy.run_path(str(EXAMPLES / "finetune_audio.py"))["main"](ARGUMENTS)
    out = capsys.readouterr().out
    assert "2 rows, 6.0 s of audio" in out
    assert "mean loss of 2 steps" in out
