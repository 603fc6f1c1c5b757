"""The console script as a whole: help, version, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mmdatasets
from mmdatasets.cli.main import main


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "mmdatasets", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mmdatasets {mmdatasets.__version__}\n"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--processor", "--data", "--output", "--steps", "--max-pixels", "--json"]),
        ("preview", ["DATASET", "--row", "--rows", "--out", "--processor", "--json"]),
        ("preprocess", ["SOURCE", "--output", "--processor", "--num-proc", "--max-length", "--overwrite", "--json"]),
    ],
)
def test_help_loads_neither_torch_nor_transformers(command, options):
    program = (
        "import sys\n"
        "from mmdatasets.cli.main import main\n"
        "try:\n"
        f"    main(['{command}', '--help'])\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for option in options:
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["demo", "--steps", "0"],
        ["probe"],
        ["report", "mapped", "--max-length", "0"],
        ["check", "mapped", "--max-problems", "0"],
        ["pack", "mapped", "--output", "packed"],
        ["push", "mapped"],
        ["demo", "--steps", "many"],
        ["demo", "--max-pixels", "-1"],
        ["preprocess"],
        ["preprocess", "chat.jsonl", "--output", "mapped"],
        ["preprocess", "chat.jsonl", "--output", "mapped", "--processor", "p", "--num-proc", "0"],
        ["preprocess", "chat.jsonl", "--output", "mapped", "--processor", "p", "--video-sampling", "fps"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: mmdatasets" in capsys.readouterr().err
