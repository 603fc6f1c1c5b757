"""Errors of mmdatasets. Each one says what is wrong, where, what was expected and what to do about it."""

from __future__ import annotations

from typing import Self


class MMDatasetsError(Exception):
    """Base of every error that mmdatasets raises on purpose.

    Args:
        message: What is wrong, what was expected, what to do.
        row: Row of the dataset (or of the batch, where the dataset row is not known).
        column: Column that holds the offending value.
        index: Position of the media item or message within the row's column.
        source: Path, URL or description of the media item.
    """

    def __init__(
        self,
        message: str,
        *,
        row: int | str | None = None,
        column: str | None = None,
        index: int | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.row = row
        self.column = column
        self.index = index
        self.source = source

    def at(
        self,
        *,
        row: int | str | None = None,
        column: str | None = None,
        index: int | None = None,
        source: str | None = None,
    ) -> Self:
        """Adds where the error happened, without overwriting what is already known, and returns the error."""
        self.row = row if self.row is None else self.row
        self.column = column if self.column is None else self.column
        self.index = index if self.index is None else self.index
        self.source = source if self.source is None else self.source
        return self

    @property
    def where(self) -> str:
        """The location in words, empty when nothing is known."""
        parts = []
        if self.row is not None:
            parts.append(f"row {self.row}")
        if self.column is not None:
            parts.append(f"column {self.column!r}")
        if self.index is not None:
            parts.append(f"index {self.index}")
        where = ", ".join(parts)
        if self.source is not None:
            where = f"{where} ({self.source})" if where else self.source
        return where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (num_proc, DataLoader workers): keep the location when pickled.
        state = {"row": self.row, "column": self.column, "index": self.index, "source": self.source}
        return type(self), (self.message,), state


class MediaError(MMDatasetsError, ValueError):
    """A media item cannot be used: base of the media errors."""


class MediaReferenceError(MediaError, TypeError):
    """A value is not a media reference of any supported form."""


class MediaForbiddenError(MediaReferenceError):
    """A media reference leads to a place that `MediaOptions` does not allow: a path, a protocol or an address."""


class MediaNotFoundError(MediaError):
    """The file or URL that a media reference names cannot be opened, or a remote one not be read to its end."""


class MediaDecodeError(MediaError):
    """The bytes are not a media file of a supported format, or are damaged."""


class MediaLimitError(MediaError):
    """A media item exceeds a limit of `MediaOptions`."""


class MediaTimeoutError(MediaError):
    """Reading or decoding a media item took longer than `MediaOptions.decode_timeout_s`."""


class MediaProcessorError(MediaError):
    """The model's processor refuses a media item."""


class MaterialiseError(MediaProcessorError):
    """The model's processor uses originals otherwise than by resizing them: no row's fault."""


class ConversationError(MMDatasetsError, ValueError):
    """A row's chat data has no supported shape."""


class PlaceholderError(ConversationError):
    """Placeholders and media items of a row do not match."""


class RowTooLongError(MMDatasetsError, ValueError):
    """A row has more tokens than `max_length`."""


class TemplateError(MMDatasetsError, ValueError):
    """The chat template cannot be rendered, or its assistant turns cannot be located."""


class MissingTemplateError(TemplateError):
    """There is no chat template to render with: no row's fault."""


class TooManyBadRowsError(MMDatasetsError, ValueError):
    """More rows cannot be used than `max_bad_rows` or `max_consecutive` allow."""


class CollateError(MMDatasetsError, ValueError):
    """Rows cannot be made into a batch."""


class FeatureMismatchError(CollateError):
    """What a row's media became in a batch does not fit the row's token ids."""


class ProcessorMismatchError(MMDatasetsError, ValueError):
    """The generic plugin would not give what the processor's own call gives. It is about no row: none is added."""

    def at(
        self,
        *,
        row: int | str | None = None,
        column: str | None = None,
        index: int | None = None,
        source: str | None = None,
    ) -> Self:
        """Returns the error as it is."""
        return self


class UnknownPluginError(MMDatasetsError, KeyError):
    """No plugin is registered under a name."""

    def __str__(self) -> str:
        return self.message


class MissingExtraError(MMDatasetsError, ImportError):
    """An optional dependency is missing. The message names the extra to install."""

    @classmethod
    def for_package(cls, package: str, extra: str, purpose: str) -> Self:
        """Builds the error for `package`, which `pip install 'mmdatasets[extra]'` provides."""
        return cls(f"{purpose} needs the package {package!r}: pip install 'mmdatasets[{extra}]'")
