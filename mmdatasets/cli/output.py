"""The demo's output folder: replaced on a second run, but only where every file in it was written by the demo."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.disk import cannot_write
from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from datasets import Dataset

MARKER = "mmdatasets-demo.json"


def check_output(folder: Path) -> None:
    """Checks that `folder` is free to be written, before any work is done.

    Raises:
        MMDatasetsError: `folder` is a file, or holds files that the demo did not write.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise MMDatasetsError("the output exists and is not a folder; choose another --output", source=str(folder))
    foreign = sorted(_files(folder) - _own_files(folder))
    if foreign:
        raise MMDatasetsError(
            f"the output folder holds files that the demo did not write ({foreign[0]}, ...); choose another --output",
            source=str(folder),
        )


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Saves `dataset` with `save_to_disk` to `folder`, replacing what an earlier run wrote there.

    Raises:
        MMDatasetsError: `folder` may not be replaced, or cannot be written.
    """
    check_output(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mmdatasets-demo-", dir=folder.parent) as temporary:
            new = Path(temporary) / "dataset"
            dataset.save_to_disk(str(new))
            (new / MARKER).write_text(json.dumps({"files": sorted(_files(new) | {MARKER})}, indent=1), "utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
    except OSError as error:
        raise cannot_write("the output", error, folder) from error


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _own_files(folder: Path) -> set[str]:
    try:
        content = json.loads((folder / MARKER).read_text("utf-8"))
        return {str(name) for name in content["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
