"""What a plugin says of the metadata cache."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass


@dataclass(eq=False)
class Remembering:
    """The part of a plugin that keeps what headers say.

    Attributes:
        metadata_cache: Local directory in which what is found in the headers of media files is kept, for other models,
            options and runs; see `mmdatasets.media.cache.MetadataCache`. It is made, and any number of plugins and
            processes may share it. `None` keeps nothing. The rows are the same with and without it. It is one of the
            plugin's settings all the same: it travels to worker processes with them, and `datasets` maps anew where it
            changes.
    """

    _: KW_ONLY
    metadata_cache: str | None = None

    def check_remembering(self) -> None:
        """Checks these fields.

        Raises:
            ValueError: If one has a value that it cannot have.
        """
        cache = self.metadata_cache
        if cache is not None and (not isinstance(cache, str) or not cache or "://" in cache):
            raise ValueError(f"metadata_cache must be a local directory, as a string, or None; got {cache!r}")
