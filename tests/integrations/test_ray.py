"""Rows mapped on a Ray cluster are those that are mapped here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mmdatasets import auto_plugin
from mmdatasets.errors import MissingExtraError
from mmdatasets.integrations.ray import map_batches
from mmdatasets.shards.layout import finished_files
from mmdatasets.testing.processors import build_processor

REPOSITORY = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}


def run(script: Path, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=folder,
        env=environment(folder),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_cluster_makes_what_one_machine_does_until_it_is_interrupted(tmp_path) -> None:
    """One start of Ray, which takes long, for both."""
    command = [sys.executable, str(Path(__file__).with_name("ray_client.py")), str(tmp_path)]
    log = tmp_path / "stderr.txt"
    with log.open("w") as errors:
        client = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=tmp_path,
            env=environment(tmp_path),
            start_new_session=True,
        )
    try:
        wait_for(lambda: client.poll() is not None or len(finished_files(tmp_path / "many", "train")) > 1, 400)
        assert client.poll() is None, log.read_text()[-3000:]
        processes = psutil.Process(client.pid).children(recursive=True)
        assert len(processes) > 2
        start = time.monotonic()
        os.killpg(client.pid, signal.SIGINT)
        output, _ = client.communicate(timeout=60)
        psutil.wait_procs(processes, timeout=10)
        assert time.monotonic() - start < 10  # on an idle machine less than 5 s, most of which Ray waits
        assert not [process for process in processes if process.is_running()]
    finally:
        client.kill()
    assert "KeyboardInterrupt" in log.read_text()
    assert not [path for path in (tmp_path / "many").rglob("*") if ".part" in path.name or path.suffix == ".lock"]
    found = json.loads(output.splitlines()[-1])
    error = found.pop("error")
    dropped, quarantined = found.pop("dropped"), found.pop("quarantined")
    assert found == {"files": True, "shards": 4, "continued": 1, "same again": True, "rows": True}
    assert dropped == {"dropped": {"media_not_found": 1}}
    assert quarantined == [{"row": 11, "reason": "media_not_found"}]
    assert error.startswith("row 11, column 'images', index 0 (/no/such.jpg)")


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
