"""What made a dataset, as text that travels with it: the family, the processor and the settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from datasets import ClassLabel

from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import SCHEMA_VERSION
from mmdatasets.options import MediaOptions, ShrinkFloor

if TYPE_CHECKING:
    from mmdatasets.planning.snapshot import ProcessorSnapshot
    from mmdatasets.plugins.base import BasePlugin

LOCAL_SETTINGS = frozenset(
    {
        "media_root",
        "media_roots",
        "allow_http",
        "allow_private_addresses",
        "allowed_protocols",
        "http_timeout_s",
        "http_total_timeout_s",
        "image_pixel_limit",
        "video_pixel_limit",
        "video_frame_limit",
        "audio_sample_limit",
        "byte_limit",
        "decode_timeout_s",
        "decode_memory_limit",
        "row_log",
        "metadata_cache",
        "on_error",
        "max_bad_rows",
        "max_consecutive",
    }
)
"""Settings of the machine that maps, and what it allows: a dataset does not bring these along."""

_NOT_SETTINGS = frozenset({"processor", "options", "family"})
_CONFIG = "processor_config.json"
_SHORT = 12


@dataclass(frozen=True)
class PluginRecord:
    """What is kept of a plugin.

    Attributes:
        family: The name that the plugin was made by.
        processor_class: Name of the processor's class.
        processor_name: Under which it was loaded from a hub, else `None`.
        processor_digest: Equal digests mean equal processors; `None` where the processor cannot be saved.
        processor_files: Name of each file that it is saved as -> digest.
        processor_config: What the file with its settings says.
        options: Fields of `MediaOptions` that are not the default.
        settings: Other fields of the plugin that are not the default.
        unrecorded: Names of further such fields, of values that no text can hold.
        schema_version: `mmdatasets.features.SCHEMA_VERSION` of the rows.
    """

    family: str
    processor_class: str
    processor_name: str | None = None
    processor_digest: str | None = None
    processor_files: Mapping[str, str] = field(default_factory=dict)
    processor_config: Mapping[str, object] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, plugin: BasePlugin) -> PluginRecord:
        """The record of a plugin with a processor."""
        try:
            snapshot = plugin.snapshot
        except (pickle.PicklingError, TypeError, AttributeError, OSError):  # a class that a notebook defines, say
            snapshot = None
        settings = {
            name: value for name, value in _changed_fields(plugin) if name not in _NOT_SETTINGS | LOCAL_SETTINGS
        }
        unrecorded = tuple(name for name, value in settings.items() if not _is_text(value))
        return cls(
            plugin.family,
            type(plugin.processor).__name__,
            **(_described(snapshot) if snapshot else {}),  # type: ignore[arg-type]
            options={name: value for name, value in _changed_fields(plugin.options) if name not in LOCAL_SETTINGS},
            settings={name: value for name, value in settings.items() if name not in unrecorded},
            unrecorded=unrecorded,
        )

    @classmethod
    def from_json(cls, text: str) -> PluginRecord:
        """Reads what `to_json` wrote.

        Raises:
            MMDatasetsError: If it is none, or of another version of the rows' schema.
        """
        try:
            values = json.loads(text)
            version = values["schema_version"]
        except (ValueError, TypeError, KeyError) as error:
            raise MMDatasetsError("what the dataset says of its making is damaged: map it again") from error
        if version != SCHEMA_VERSION:
            raise MMDatasetsError(
                f"the dataset's rows are of schema version {version}, and this mmdatasets reads version "
                f"{SCHEMA_VERSION}: map the dataset again, or use the mmdatasets that made it"
            )
        known = {item.name for item in dataclasses.fields(cls)}
        if not set(values) <= known:
            raise MMDatasetsError(f"unknown fields in what made the dataset: {', '.join(sorted(set(values) - known))}")
        return cls(**{**values, "unrecorded": tuple(values.get("unrecorded", ()))})

    def to_json(self) -> str:
        """The record as one line, the same for equal records."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def label(self) -> str:
        """A short name: two datasets with the same were made by equal plugins."""
        settings = {**self.options, **self.settings, "unrecorded": self.unrecorded}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        processor = (self.processor_digest or "unknown")[:_SHORT]
        return f"{self.family}, processor {processor}, settings {digest[:_SHORT]}, schema {self.schema_version}"

    def feature(self) -> ClassLabel:
        """The feature of the column `made_by`, which carries the record."""
        return ClassLabel(names=[self.label], id=self.to_json())

    def plugin_fields(self) -> dict[str, object]:
        """What a plugin with these settings is made of, the processor and the options aside."""
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in self.settings.items()}
        if "shrink_floor" in settings:
            settings["shrink_floor"] = ShrinkFloor(**cast("dict[str, int]", settings["shrink_floor"]))
        return settings

    def check_processor(self, snapshot: ProcessorSnapshot) -> None:
        """Checks that a processor is the one that the rows were made with.

        Raises:
            MMDatasetsError: If it is another one. Says what differs.
        """
        if self.processor_digest in (None, snapshot.digest):
            return
        raise MMDatasetsError(
            f"the dataset was made with another processor: {'; '.join(self._differences(snapshot))}. Token ids and "
            "media would not fit each other: load the processor that made it"
            + (f" ({self.processor_name})" if self.processor_name else "")
            + ", or map the dataset again"
        )

    def _differences(self, snapshot: ProcessorSnapshot) -> list[str]:
        kind = snapshot.qualname
        if kind != self.processor_class:
            return [f"a {self.processor_class}, and this is a {kind}"]
        theirs = _described(snapshot)
        config = cast("dict[str, object]", theirs["processor_config"])
        mine, given = dict(_flat(self.processor_config)), dict(_flat(config))
        found = [
            f"{name} was {json.dumps(mine.get(name))}, here it is {json.dumps(given.get(name))}"
            for name in sorted({*mine, *given})
            if mine.get(name) != given.get(name)
        ]
        files = cast("dict[str, str]", theirs["processor_files"])
        names = sorted({*files, *self.processor_files} - {_CONFIG})
        changed = [name for name in names if files.get(name) != self.processor_files.get(name)]
        return [*found, *(f"{name} is another" for name in changed)] or ["its code or pickled state"]


class Recorded:
    """The part of a plugin that says in the dataset what made it."""

    @cached_property
    def made_by(self) -> ClassLabel:
        """The feature of the column `made_by`: its one name says family, processor and settings, its `id` the rest."""
        return PluginRecord.of(cast("BasePlugin", self)).feature()


def _described(snapshot: ProcessorSnapshot) -> dict[str, object]:
    config = snapshot.files.get(_CONFIG)
    return {
        "processor_name": snapshot.name,
        "processor_digest": snapshot.digest,
        "processor_files": {
            name: hashlib.sha256(content).hexdigest()[:_SHORT] for name, content in snapshot.files.items()
        },
        "processor_config": json.loads(config) if config else {},
    }


def _changed_fields(value: BasePlugin | MediaOptions) -> Iterator[tuple[str, object]]:
    """The fields that are not the default, as JSON has them."""
    for item in dataclasses.fields(value):
        current = getattr(value, item.name)
        made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if current != made:
            is_record = dataclasses.is_dataclass(current) and not isinstance(current, type)
            yield item.name, dataclasses.asdict(current) if is_record else current


def _is_text(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """The values of a nested mapping by their dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
