"""What is said where a file cannot be written: why, where, and what to do."""

from __future__ import annotations

import errno
import os

from mmdatasets.errors import MMDatasetsError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def cannot_write(what: str, error: OSError, path: str | os.PathLike[str], then: str = "") -> MMDatasetsError:
    """The error that a file cannot be written.

    Args:
        what: What the file is.
        error: What the system says.
        path: The file, or the folder that is full or may not be written.
        then: What to do, or what happens, after the cause is gone.
    """
    advice = ""
    if error.errno in _FULL:
        advice = "make room there"
    elif error.errno in _FORBIDDEN:
        advice = "choose a folder that can be written"
    # Arrow has words of its own around the system's.
    reason = error.strerror or str(error) if error.errno is None else os.strerror(error.errno)
    more = "".join(f"; {part}" for part in (advice, then) if part)
    return MMDatasetsError(f"cannot write {what}: {reason}{more}", source=os.fspath(path))
