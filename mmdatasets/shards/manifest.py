"""What an output is made of and by, as a small JSON file beside the shards; and whether a run may go on in it.

Which shards are finished is told by the files themselves, each of which appears as a whole and says what it is. So
nothing has to be kept in step with them, whoever writes them; the manifest lists them when all are there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from mmdatasets._version import __version__
from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import SCHEMA_VERSION
from mmdatasets.shards.counts import ShardCounts
from mmdatasets.shards.layout import Shard, finished_files
from mmdatasets.shards.writer import sync_folder

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_FORMAT = 1
_LONGEST_SHOWN = 60


def describe_plugin(plugin: BasePlugin) -> dict[str, Json]:
    """A plugin's settings in readable form, and digests of what is too long for that."""
    kind = type(plugin)
    fields = {item.name: getattr(plugin, item.name) for item in dataclasses.fields(plugin)}
    snapshot = plugin.snapshot
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "mmdatasets": __version__,
        "schema_version": SCHEMA_VERSION,
        "processor": None if snapshot is None else {"class": snapshot.qualname, "digest": snapshot.digest},
        **{name: _as_json(value) for name, value in fields.items() if name not in ("processor", "_")},
        "digest": plugin.settings_digest,
    }


def _as_json(value: object) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _as_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)


def run_digest(identity: Mapping[str, Json]) -> str:
    """What shards of a run are told by: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def manifest_path(output: Path, split: str) -> Path:
    """Where the manifest of a split lies."""
    return output / f"preprocess-{split}.json"


def read_identity(output: Path, split: str) -> dict[str, Json] | None:
    """What the output was made of and by; `None` where it has no manifest.

    Raises:
        MMDatasetsError: If the manifest cannot be read.
    """
    path = manifest_path(output, split)
    try:
        return cast("dict[str, Json]", json.loads(path.read_text("utf-8"))["identity"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MMDatasetsError(
            f"this is no manifest of preprocess ({error}); choose another output", source=str(path)
        ) from error


def check_output(output: Path, split: str, identity: Mapping[str, Json], *, overwrite: bool) -> None:
    """Makes an output ready for a run: there, and without shards of another one.

    Args:
        output: The folder.
        split: Name of the split.
        identity: What the run makes its shards of and by.
        overwrite: Whether to remove shards of another run.

    Raises:
        MMDatasetsError: If the output is of another run, which it tells from this one, or holds shards that no
            manifest explains.
    """
    found = read_identity(output, split)
    if found == identity:
        return
    files = finished_files(output, split)
    if found is None and files:
        raise MMDatasetsError(
            f"the output holds {files[0].name} and no {manifest_path(output, split).name} that says what it was made "
            "of; choose another output, or remove the files",
            source=str(output),
        )
    if found is not None and not overwrite:
        differences = "\n".join(f"  {line}" for line in _differences(found, identity))
        raise MMDatasetsError(
            f"the output was made with other settings or of another source, and is not continued:\n{differences}\n"
            "Choose another output, or let it be replaced: overwrite=True (--overwrite)",
            source=str(output),
        )
    for path in files:
        path.unlink()
    write_manifest(output, split, identity, {})


def _differences(found: Json, wanted: object, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, Mapping):
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        # The digest says nothing beside what it is the digest of.
        for key in [key for key in differing if key != "digest"] or differing:
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        return
    yield f"{name}: {_shown(found)} there, {_shown(wanted)} now"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text):,} characters)"


def write_manifest(
    output: Path, split: str, identity: Mapping[str, Json], shards: Mapping[Shard, ShardCounts]
) -> None:
    """Writes the manifest, as a whole or not at all.

    Args:
        output: The folder.
        split: Name of the split.
        identity: What the shards are made of and by.
        shards: All of them with their counts, in order; none while they are being made.
    """
    content = {
        "format": _FORMAT,
        "complete": bool(shards),
        "identity": identity,
        "run": run_digest(identity),
        "counts": ShardCounts.total(shards.values()).to_json(),
        "shards": [{"name": shard.name, **counts.to_json()} for shard, counts in shards.items()],
    }
    path = manifest_path(output, split)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(output)
