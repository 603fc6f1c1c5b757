"""Tokenised rows and batches in readable form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, TypedDict

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import torch

    from mmdatasets.features import MediaRecord

IGNORED = -100
SHORTEST_RUN = 4  # equal tokens in a row; ordinary text hardly ever repeats a token that often
TRAINED_OPEN, TRAINED_CLOSE = "[[", "]]"


class MappedRow(TypedDict):
    """The columns of a mapped row that are shown."""

    input_ids: Sequence[int]
    labels: Sequence[int]
    media_info: Sequence[MediaRecord]


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of `token_ids`, special tokens included."""


def render_row(row: MappedRow, tokenizer: Decoder) -> Text:
    """Renders a mapped row as its text, with runs of media tokens collapsed and trained tokens marked.

    Args:
        row: A row that `plugin.transform` made.
        tokenizer: The processor's tokenizer.

    Returns:
        The text. Trained tokens stand in `[[ ]]` and are green; media runs are cyan.
    """
    text = Text()
    for trained, positions in groupby(range(len(row["input_ids"])), key=lambda i: row["labels"][i] != IGNORED):
        block = list(positions)
        if trained:
            text.append(TRAINED_OPEN, style="bold green")
        for part, is_run in _parts(row, block[0], block[-1] + 1, tokenizer):
            text.append(part, style="cyan" if is_run else "green" if trained else "default")
        if trained:
            text.append(TRAINED_CLOSE, style="bold green")
    return text


def _parts(row: MappedRow, start: int, end: int, tokenizer: Decoder) -> Iterator[tuple[str, bool]]:
    """Yields (text, whether it stands for a run) of the tokens in `[start, end)`."""
    ids = row["input_ids"]
    plain: list[int] = []
    for token, positions in groupby(range(start, end), key=lambda i: ids[i]):
        run = list(positions)
        if len(run) < SHORTEST_RUN:
            plain.extend([token] * len(run))
            continue
        if plain:
            yield tokenizer.decode(plain), False
            plain = []
        yield f"{tokenizer.decode([token])} x {len(run):,}{_media_note(row, run[0], run[-1] + 1)}", True
    if plain:
        yield tokenizer.decode(plain), False


def _media_note(row: MappedRow, start: int, end: int) -> str:
    """Says which media item the tokens in `[start, end)` belong to, where they do."""
    counts: dict[str, int] = {}
    for item in row["media_info"]:
        counts[item["modality"]] = counts.get(item["modality"], 0) + 1
        if item["start"] <= start and end <= item["end"]:
            return f" ({item['modality']} {counts[item['modality']]}: {_size(item)})"
    return ""


def _size(item: MediaRecord) -> str:
    """What is said of an item's size."""
    if item["width"] is None:
        return f"{item['num_samples']:,} samples"
    frames = item["frame_indices"]
    pixels = f"{item['width']}x{item['height']} pixels"
    return pixels if frames is None else f"{len(frames)} frames of {pixels}"


def batch_table(batch: Mapping[str, torch.Tensor]) -> Table:
    """Lists the tensors of a batch: name, shape, dtype."""
    table = Table("name", "shape", "dtype", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name, value in batch.items():
        table.add_row(name, str(tuple(value.shape)), str(value.dtype))
    return table
