"""Files named by what they hold, so that the same content is there once."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from mmdatasets.disk import cannot_write
from mmdatasets.types import StoredMedia

_SUFFIXES = {b"II*\0": ".tif", b"\xff\xd8\xff": ".jpg", b"RIFF": ".wav"}


def store_content(content: bytes, directory: str | None) -> StoredMedia:
    """Stores a file: in a directory, or, without one, in the reference itself.

    Several processes may store the same content at a time, and one that is killed leaves no half of a file under a
    content's name.

    Args:
        content: What the file holds.
        directory: Local directory; it is made.

    Returns:
        A reference to it; its path is absolute.

    Raises:
        MMDatasetsError: If it cannot be written.
    """
    if directory is None:
        return StoredMedia(bytes=content, path=None)
    name = blake2b(content, digest_size=16).hexdigest()
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), "")
    path = Path(directory).absolute() / name[:2] / f"{name}{suffix}"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}-{os.getpid()}")
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise cannot_write("media", error, directory) from error
    return StoredMedia(bytes=None, path=str(path))
