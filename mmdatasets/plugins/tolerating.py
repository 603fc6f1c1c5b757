"""What a plugin says of rows that cannot be used."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Self

from mmdatasets.options import ErrorPolicy
from mmdatasets.transforms.bad_rows import BadRowTally, check_policy


@dataclass(eq=False)
class Tolerating:
    """The part of a plugin that decides on rows that cannot be used.

    Attributes:
        on_error: What becomes of a row whose chat or media cannot be used. Only what is the row's fault counts: a
            missing package, template or processor, memory that runs out and Ctrl-C stop the run in any case.

            `"raise"` raises an error that names row, column, index, source and cause. `"skip"` leaves the row out of
            what `map`, `materialise` and `preprocess` make and counts it; the collator, which cannot leave out a row
            without this rank's batch becoming another than the other ranks', replaces it, see
            `mmdatasets.collate.replacing`. `"quarantine"` does the same, and needs `row_log`, which keeps which row
            it was (its number with `with_indices=True`, and a digest of what it holds), and why. With `row_log`,
            `"skip"` writes there too; without, a warning counts what each batch drops.
        max_bad_rows: Most rows that may be dropped or replaced; any number when `None`. Each process counts its own:
            those of `map(num_proc=...)`, of `preprocess`, of Ray and of a `DataLoader`; a plugin counts on over
            several maps, and `materialise` counts by itself.
        max_consecutive: Most such rows that may follow one another, likewise: then the data is wrong as a whole.
    """

    _: KW_ONLY
    on_error: ErrorPolicy = "raise"
    max_bad_rows: int | None = None
    max_consecutive: int | None = 1000

    def check_tolerating(self, row_log: object) -> None:
        """Checks these fields.

        Args:
            row_log: Where rows are logged.

        Raises:
            ValueError: If one has a value that it cannot have.
        """
        check_policy(self.on_error, row_log)
        for name in ("max_bad_rows", "max_consecutive"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ValueError(f"{name} must be a number of rows or None, got {value!r}")

    def with_policy(self, on_error: ErrorPolicy | None, row_log: str | None) -> Self:
        """This plugin with another policy on rows that cannot be used; itself where none is given.

        Raises:
            ValueError: If `on_error` is none, or needs `row_log`.
        """
        if on_error is None and row_log is None:
            return self
        log = getattr(self, "row_log", None) if row_log is None else row_log  # a field of `Fitting`
        return replace(self, on_error=on_error or self.on_error, row_log=log)  # type: ignore[call-arg]

    @cached_property
    def bad_rows(self) -> BadRowTally:
        """Counts what the transforms could not use in this process; never pickled."""
        return BadRowTally(self.max_bad_rows, self.max_consecutive)

    @cached_property
    def bad_materialised(self) -> BadRowTally:
        """Counts what `materialise` could not use in this process, of rows that the transforms could."""
        return BadRowTally(self.max_bad_rows, self.max_consecutive)
