"""A report on a dataset: its numbers, and the page, the JSON and the summary that are made of them."""

from __future__ import annotations

import html
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.errors import MMDatasetsError
from mmdatasets.report.summary import summarise

if TYPE_CHECKING:
    from mmdatasets.report.data import ReportData

PAGE, JSON = "report.html", "report.json"
"""Names of the files in a folder."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a dataset holds, what it costs to train on, and what is wrong with it.

    In a notebook it shows its page; `str` gives a summary.

    Attributes:
        data: The numbers, as JSON has them.
    """

    data: ReportData

    @cached_property
    def html(self) -> str:
        """The page, complete in one file: nothing in it is loaded from elsewhere, and nothing in it runs.

        Raises:
            MissingExtraError: `matplotlib` is not installed, which draws the plots.
        """
        from mmdatasets.report.page import render_page

        return render_page(self.data)

    def to_json(self) -> str:
        """The numbers as JSON."""
        return json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page, and the JSON beside it.

        Args:
            path: A file `*.html`, or a folder for `report.html` and `report.json`. Folders are made, files replaced.

        Returns:
            The page.

        Raises:
            MMDatasetsError: If they cannot be written.
            MissingExtraError: `matplotlib` is not installed.
        """
        given = Path(path)
        page = given if given.suffix.lower() in (".html", ".htm") else given / PAGE
        data = page.with_name(JSON) if page.name == PAGE else page.with_suffix(".json")
        text = self.html
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
            data.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise MMDatasetsError(f"cannot write the report: {error}", source=str(path)) from error
        return page

    def __str__(self) -> str:
        return summarise(self.data)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its styles and the notebook's do not meet."""
        return (
            f'<iframe title="Report on a dataset" srcdoc="{html.escape(self.html, quote=True)}" sandbox '
            'style="width: 100%; height: 48rem; border: 1px solid #8884; border-radius: 6px"></iframe>'
        )
