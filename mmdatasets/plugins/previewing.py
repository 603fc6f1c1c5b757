"""What a plugin shows of rows and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.preview.preview import Preview
    from mmdatasets.preview.rows import Given


class Previewing:
    """The part of a plugin that shows what the model sees."""

    def preview(self, given: Given, *, names: Sequence[str] | None = None) -> Preview:
        """Shows a row, several rows or a batch: `plugin.preview(mapped[3])`, `plugin.preview(batch)`.

        A notebook shows the conversation, thumbnails with the grid or the tiles that the model sees, frames with their
        times, waveforms, and the tokens: who speaks, what is media, what is trained. A terminal shows it as text.
        Media that cannot be read is no error: the preview says why, in its place.

        Args:
            given: A row of the dataset, mapped or not, of chats or of preferences, packed or not; a list of rows;
                columns of rows (`dataset[:4]`); or a batch as a collator makes it, of which the tokens and tensors are
                shown.
            names: What the rows are called; `row 0` and so on when `None`.

        Returns:
            The preview. `.save("page.html")` writes a page that loads nothing from anywhere.

        Raises:
            MMDatasetsError: If it is none of these, or a row cannot be mapped. Names the row.
        """
        from mmdatasets.preview.build import gather
        from mmdatasets.preview.preview import Preview

        return Preview(gather(cast("BasePlugin", self), given, names))
