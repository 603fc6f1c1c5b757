"""`Trainer` in two processes: who gets which rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from mmdatasets import MediaBudgetBatchSampler, auto_plugin
from mmdatasets.testing.processors import build_processor

from .launch import run
from .trainer_worker import MAX_TOKENS

WORKER = Path(__file__).with_name("trainer_worker.py")
NUM_ROWS = 12


@pytest.fixture
def data(tmp_path, image_file):
    """Rows in two files; all but the first three of each have no image, so that many batches are without one."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for number in range(NUM_ROWS):
        images = [str(image_file(60 + 30 * (number % 3), 60))] if number % 6 < 3 else []
        question = "<image>" * len(images) + f"What is {number}?"
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "It is." * (1 + number % 4)}]
        rows.append({"messages": chat, "images": images, "number": number})
    for shard in range(2):
        lines = [json.dumps(row) + "\n" for row in rows[shard * 6 : shard * 6 + 6]]
        (folder / f"{shard}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder, rows


def reports(kind, folder, output):
    output.mkdir()
    done = run(WORKER, kind, str(folder), str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((output / f"rank{rank}.json").read_text("utf-8")) for rank in range(2)]


@pytest.mark.slow
def test_batches_of_a_budget(data, tmp_path) -> None:
    folder, rows = data
    ranks = reports("budget", folder, tmp_path / "out")
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = plugin.transform({name: [row[name] for row in rows] for name in ("messages", "images")})
    for rank, report in enumerate(ranks):
        planned = MediaBudgetBatchSampler(mapped["length"], max_tokens=MAX_TOKENS, seed=5, num_replicas=2, rank=rank)
        assert report["seen"] == [*planned.batches(0), *planned.batches(1)]
        assert report["steps"] == 2 * len(planned)
    for epoch in range(2):
        half = len(ranks[0]["seen"]) // 2
        parts = [report["seen"][epoch * half : (epoch + 1) * half] for report in ranks]
        assert sorted(itertools.chain(*parts[0], *parts[1])) == list(range(NUM_ROWS))
    assert ranks[0]["losses"] == ranks[1]["losses"] or not ranks[1]["losses"]  # logged where the main process logs
    assert all(0 < loss < 20 for loss in ranks[0]["losses"])


@pytest.mark.slow
def test_a_stream(data, tmp_path) -> None:
    """No batch is cut apart, and each row reaches one process."""
    folder, _ = data
    ranks = reports("stream", folder, tmp_path / "out")
    assert [report["steps"] for report in ranks] == [3, 3]
    trained = [batch for report in ranks for batch in report["seen"][:3]]
    assert sorted(itertools.chain(*trained)) == list(range(NUM_ROWS))
    assert all(len(batch) == 2 for batch in trained)
