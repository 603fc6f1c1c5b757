"""What `preprocess` reads: a dataset, files, a folder or a name on the Hub becomes a `datasets.Dataset`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from datasets import Dataset

Source: TypeAlias = "Dataset | str | os.PathLike[str]"
"""A dataset in memory or on disk; a data file; a folder of such, or of `save_to_disk`; a name on the Hub."""

FORMATS: Mapping[str, str] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
}
"""Suffix of a data file -> how `datasets` calls the format."""

_EXPECTED = f"a file ({', '.join(FORMATS)}), a folder of such files or of save_to_disk, or a dataset's name on the Hub"
# The words by which `datasets` tells a file's split, as a word of its path.
_SPLIT_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A source that can be read by row.

    Attributes:
        dataset: Its rows.
        identity: What tells it from other sources, as JSON has it.
        media_root: The folder that relative media paths start from, unless the plugin has one; `None` for datasets
            and names on the Hub, whose paths are the plugin's affair.
    """

    dataset: Dataset
    identity: Mapping[str, str | int]
    media_root: str | None = None


def open_source_dataset(
    source: Source, split: str, config: str | None = None, *, written: Sequence[str | os.PathLike[str]] = ()
) -> OpenedSource:
    """Opens a source. Files become memory-mapped Arrow files in the cache of `datasets`, once.

    Args:
        source: What to read.
        split: Which split of it.
        config: Which configuration of a dataset on the Hub.
        written: Folders that the run writes: where they lie in a folder that is the source, their files are not of it.

    Raises:
        MMDatasetsError: If there is no such source or split, or it cannot be read, or has no rows, or it is one of the
            folders that the run writes.
    """
    from datasets import Dataset

    if isinstance(source, Dataset):
        identity: dict[str, str | int] = {"kind": "dataset", "fingerprint": source._fingerprint}
        opened = OpenedSource(source, {**identity, "rows": len(source)})
    elif isinstance(source, str | os.PathLike):
        opened = _open_named(source, split, config, [Path(folder).resolve() for folder in written])
    else:
        raise MMDatasetsError(
            f"a source is a datasets.Dataset, {_EXPECTED}; got {type(source).__name__}"
            + (" (choose one: source['train'])" if isinstance(source, dict) else "")
            + (": what streams has no rows to go back to" if hasattr(source, "_ex_iterable") else "")
        )
    if not len(opened.dataset):
        raise MMDatasetsError(f"the split {split!r} has no rows", source=str(source)[:100])
    return opened


def _open_named(
    source: str | os.PathLike[str], split: str, config: str | None, written: Sequence[Path]
) -> OpenedSource:
    path = Path(source).expanduser()
    name = os.fspath(source)
    if path.is_file():
        return _open_files([path], path.parent, split, name)
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _open_saved(path, split)
        return _open_files(_files_of_split(path, split, written), path, split, name)
    # A name on the Hub is NAME or OWNER/NAME.
    if (
        path.suffix in FORMATS
        or name.startswith((".", "~", os.sep))
        or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", name)
    ):
        raise MMDatasetsError(f"no such file or folder; expected {_EXPECTED}", source=name)
    return _open_hub(name, split, config)


def _open_files(files: Sequence[Path], root: Path, split: str, name: str) -> OpenedSource:
    formats = {FORMATS.get(path.suffix.lower()) for path in files}
    format = formats.pop()
    if formats or format is None:
        kinds = ", ".join(sorted({path.suffix or "no suffix" for path in files}))
        raise MMDatasetsError(f"expected data files of one format ({', '.join(FORMATS)}), got {kinds}", source=name)
    digest = hashlib.sha256()
    size = 0
    for path in files:
        found = path.stat()
        size += found.st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    # `datasets` takes [ and * in a path for a pattern.
    dataset = _load(name, split, format, data_files={split: [_escaped(path.resolve()) for path in files]})
    identity: dict[str, str | int] = {"kind": "files", "format": format, "files": len(files), "bytes": size}
    return OpenedSource(dataset, {**identity, "names_sizes_and_times": digest.hexdigest()}, str(root.resolve()))


def _escaped(path: Path) -> str:
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _files_of_split(folder: Path, split: str, written: Sequence[Path]) -> list[Path]:
    """The folder's data files, as far as their paths do not name another split; those that name none are `train`."""
    inner = [path.relative_to(folder.resolve()) for path in written if path.is_relative_to(folder.resolve())]
    if Path() in inner:
        raise MMDatasetsError(
            "the run would write into the folder that it reads; choose another one", source=str(folder)
        )
    visible = (
        path for path in folder.rglob("*") if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    files = sorted(
        path
        for path in visible
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(path.relative_to(folder).is_relative_to(one) for one in inner)
    )
    if not files:
        raise MMDatasetsError(f"the folder has no data files ({', '.join(FORMATS)})", source=str(folder))
    by_split: dict[str, list[Path]] = {}
    for path in files:
        words = re.split(r"[^a-z]+", path.relative_to(folder).with_suffix("").as_posix().lower())
        named = next((_SPLIT_WORDS[word] for word in reversed(words) if word in _SPLIT_WORDS), "train")
        by_split.setdefault(named, []).append(path)
    if split not in by_split:
        raise _no_split(split, by_split, str(folder))
    return by_split[split]


def _open_saved(folder: Path, split: str) -> OpenedSource:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise MMDatasetsError(f"cannot load the dataset: {error}", source=str(folder)) from error
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise _no_split(split, saved, str(folder))
        saved = saved[split]
    identity: dict[str, str | int] = {"kind": "saved dataset", "fingerprint": saved._fingerprint}
    return OpenedSource(saved, {**identity, "rows": len(saved)}, str(folder.resolve()))


def _open_hub(name: str, split: str, config: str | None) -> OpenedSource:
    dataset = _load(name, split, name, name=config)
    identity: dict[str, str | int] = {"kind": "hub", "name": name, "config": config or ""}
    return OpenedSource(dataset, {**identity, "fingerprint": dataset._fingerprint})


def _load(source: str, split: str, path: str, **arguments: object) -> Dataset:
    from datasets import load_dataset

    try:
        return load_dataset(path, split=split, **arguments)
    # What fails depends on where: network, parsing, casting, ...; `datasets` has errors of many kinds for it.
    except Exception as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        what = str(error) or f"{type(error).__name__}; is it empty?"
        raise MMDatasetsError(f"cannot load the data: {what}{cause}", source=source) from error


def _no_split(split: str, known: Mapping[str, object], source: str) -> MMDatasetsError:
    return MMDatasetsError(f"there is no split {split!r}, only {', '.join(map(repr, known))}", source=source)
