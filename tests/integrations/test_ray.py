"""Rows mapped on a Ray cluster are those that are mapped here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import MissingExtraError
from mmdatasets.integrations.ray import map_batches
from mmdatasets.testing.processors import build_processor

REPOSITORY = Path(__file__).parents[2]


def run(script: Path, *arguments: str, folder: Path) -> str:
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_cluster_makes_what_one_machine_does(tmp_path) -> None:
    output = run(Path(__file__).with_name("ray_client.py"), str(tmp_path), folder=tmp_path)
    found = json.loads(output.splitlines()[-1])
    error = found.pop("error")
    dropped, quarantined = found.pop("dropped"), found.pop("quarantined")
    assert found == {"files": True, "shards": 4, "continued": 1, "same again": True, "rows": True}
    assert dropped == {"dropped": {"media_not_found": 1}}
    assert quarantined == [{"row": 11, "reason": "media_not_found"}]
    assert error.startswith("row 11, column 'images', index 0 (/no/such.jpg)")


@pytest.mark.slow
def test_the_example_runs_offline(tmp_path) -> None:
    script = REPOSITORY / "examples" / "preprocess_ray.py"
    output = run(script, "--tiny", "--num-cpus", "2", "--rows-per-shard", "5", folder=tmp_path)
    report = json.loads(output[output.index("{") :])
    assert (report["rows_read"], report["num_shards"]) == (14, 3)
    assert len(list((tmp_path / "example-output" / "ray" / "data").iterdir())) == 3


def test_without_ray(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mmdatasets\[ray\]'"):
        map_batches(None, auto_plugin(build_processor("qwen2_vl")))
