"""The object that `plugin.preview` returns: shows itself in a notebook, in a terminal, and as a file."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.errors import MMDatasetsError
from mmdatasets.preview.html import fragment, page
from mmdatasets.preview.text import facts_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from mmdatasets.preview.facts import Facts

_WIDTH = 100


@dataclass(frozen=True, repr=False, eq=False)
class Preview:
    """What the model sees of rows or of a batch, to look at.

    A notebook shows it as HTML, `print` and terminals as text.

    Attributes:
        facts: What is shown; `facts.to_json()` says it as values.
    """

    facts: Facts

    @cached_property
    def html(self) -> str:
        """A page of its own, which loads nothing from anywhere."""
        return page(self.facts)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page.

        Args:
            path: The file; its folder is made.

        Returns:
            The file.

        Raises:
            MMDatasetsError: If it cannot be written.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise MMDatasetsError(f"cannot write the page: {error}", source=str(target)) from error
        return target

    def _repr_html_(self) -> str:
        return fragment(self.facts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield facts_text(self.facts)

    def __str__(self) -> str:
        from rich.console import Console

        # In a notebook, a console shows what it prints as a picture of its own, beside the file.
        console = Console(width=_WIDTH, file=io.StringIO(), color_system=None, soft_wrap=True, force_jupyter=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip("\n")

    def __repr__(self) -> str:
        return str(self)
