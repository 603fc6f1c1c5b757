"""A processor as data: the same bytes before use, after use and in another process.

Pickling a processor costs seconds with a large tokenizer, and gives other bytes after the tokenizer has padded or
truncated once. What `save_pretrained` writes is stable, and is what transformers itself rebuilds a processor from.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.disk import cannot_write
from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Where a processor came from and what wrote it says nothing about what it does.
_VOLATILE_KEYS = frozenset(
    {"name_or_path", "_name_or_path", "is_local", "local_files_only", "transformers_version", "_commit_hash"}
)
# The tokenizer keeps the padding and truncation of its last call.
_CALL_STATE = ("truncation", "padding")
_HUB_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")


@dataclass(frozen=True)
class ProcessorSnapshot:
    """The files of a saved processor, and the class that loads them.

    Attributes:
        module: Module of the processor's class.
        qualname: Name of the class in the module.
        files: File name -> content, made canonical. Empty for classes that cannot be saved, which are pickled.
        pickled: The pickled processor where there are no files, else empty.
        digest: Hexadecimal digest of all of the above: equal digests mean equal processors.
        name: The name under which a hub keeps it, if it was loaded by one.
    """

    module: str
    qualname: str
    files: dict[str, bytes]
    pickled: bytes
    digest: str
    name: str | None = None

    @classmethod
    def of(cls, processor: ProcessorMixin | PreTrainedTokenizerBase) -> ProcessorSnapshot:
        """Takes the snapshot of a processor. The processor is not changed.

        Raises:
            MMDatasetsError: If there is no room for it in the folder of temporary files.
        """
        kind = type(processor)
        files: dict[str, bytes] = {}
        pickled = b""
        if hasattr(processor, "save_pretrained") and _importable(kind):
            with _temporary_folder() as folder:
                processor.save_pretrained(folder)
                files = {
                    path.relative_to(folder).as_posix(): _canonical(path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                }
        else:
            pickled = pickle.dumps(processor)
        digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
        for name, content in files.items():
            digest.update(f"\0{name}\0{len(content)}\0".encode())
            digest.update(content)
        digest.update(pickled)
        return cls(kind.__module__, kind.__qualname__, files, pickled, digest.hexdigest(), _hub_name(processor))

    def restore(self) -> ProcessorMixin | PreTrainedTokenizerBase:
        """Rebuilds the processor.

        Raises:
            MMDatasetsError: If what transformers loads differs from what was saved, or there is no room for it in the
                folder of temporary files.
        """
        if self.pickled:
            return pickle.loads(self.pickled)
        kind = getattr(importlib.import_module(self.module), self.qualname)
        with _temporary_folder() as folder:
            for name, content in self.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            processor = kind.from_pretrained(folder, local_files_only=True)
        self._check(processor)
        return processor

    def _check(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> None:
        config = self.files.get("processor_config.json")
        if config is None:
            return
        saved, loaded = json.loads(config), json.loads(processor.to_json_string())
        differing = sorted(key for key in saved if key not in _VOLATILE_KEYS and saved[key] != loaded.get(key))
        if differing:
            raise MMDatasetsError(
                f"{self.qualname} cannot be sent to another process: after save_pretrained and from_pretrained it "
                f"differs in {', '.join(differing)}. Use a processor that survives that round trip, or one process."
            )


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for the files of a processor, which transformers and tokenizers take as such alone."""
    place: str | None = None
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="mmdatasets-") as folder:
            yield Path(folder)
    except Exception as error:
        cause = _full_disk(error)
        if cause is None:
            raise
        then = "or have the environment variable TMPDIR name another folder for temporary files"
        raise cannot_write("the processor's files", cause, place or "the folder for temporary files", then) from error


def _full_disk(error: Exception) -> OSError | None:
    """What the system says of a write that failed: tokenizers raises a bare `Exception` with its words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error) is Exception else None
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def _hub_name(processor: ProcessorMixin | PreTrainedTokenizerBase) -> str | None:
    tokenizer = getattr(processor, "tokenizer", processor)
    name = getattr(tokenizer, "name_or_path", None)
    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name) or Path(name).exists():
        return None
    return name


def _importable(kind: type) -> bool:
    try:
        return getattr(importlib.import_module(kind.__module__), kind.__qualname__, None) is kind
    except ImportError:
        return False


def _canonical(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "tokenizer.json":
        return _without_call_state(content)
    if path.suffix == ".json":
        return json.dumps(_without_volatile(json.loads(content)), sort_keys=True, indent=2).encode()
    return content


def _without_call_state(tokenizer_json: bytes) -> bytes:
    # Only the head is parsed: the vocabulary behind it takes megabytes.
    head, separator, rest = tokenizer_json.partition(b',\n  "added_tokens"')
    fields = json.loads(head + b"}") if separator else {}
    if not any(fields.get(key) for key in _CALL_STATE):
        return tokenizer_json
    fields.update(dict.fromkeys(_CALL_STATE))
    return json.dumps(fields, ensure_ascii=False, indent=2).removesuffix("\n}").encode() + separator + rest


def _without_volatile(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        key: _without_volatile(item)
        for key, item in value.items()
        if key not in _VOLATILE_KEYS and (key, item) != ("chat_template", None)
    }
