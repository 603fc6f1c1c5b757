"""The media of a batch's rows: what the rows say of it, in the order of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from mmdatasets.errors import CollateError
from mmdatasets.features import MEDIA_COLUMNS, MEDIA_INFO, plan_of
from mmdatasets.media.clip import is_frame_list
from mmdatasets.options import PixelBudget
from mmdatasets.planning.sampling import PLANNED
from mmdatasets.transforms.batches import stored_items
from mmdatasets.types import MODALITIES, Expansion, MediaItem, Modality, VideoShape

if TYPE_CHECKING:
    from mmdatasets.features import MediaRecord
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import MediaInput, MediaPlan, MediaReference


_LENGTHS: dict[Modality, str] = {"image": "imglens", "video": "vidlens", "audio": "audlens"}


@dataclass(frozen=True, slots=True, eq=False)
class RowMedia:
    """A row's media.

    Attributes:
        items: The items, in the order of the text.
        plans: What was planned of each; an image may have no plan.
        num_tokens: How many features each was planned to make; `None` where the row does not say so.
        blanks: Items that were added behind them, so that the batch is not without any.
        max_pixels: Each item's own bound on pixels, of rows that were shrunk to fit into a length.
        loaded: The items decoded, where they are already.
    """

    items: Sequence[MediaItem] = ()
    plans: Sequence[MediaPlan | None] = ()
    num_tokens: Sequence[int] | None = None
    blanks: Sequence[MediaInput] = ()
    max_pixels: Sequence[int | None] = ()
    loaded: Sequence[MediaInput] | None = None

    @property
    def budget(self) -> PixelBudget | None:
        """The row's own bounds on pixels, `None` where it has none.

        Raises:
            CollateError: If items of one modality have several.
        """
        bounds: dict[str, int | None] = {}
        for item, bound in zip(self.items, self.max_pixels, strict=False):
            if item.modality != "audio" and bounds.setdefault(f"{item.modality}_max_pixels", bound) != bound:
                raise CollateError(
                    f"its {item.modality}s were planned with several budgets of pixels, as those of packed rows are: "
                    "use plugin.packed_collator for these"
                )
        has_some = any(bound is not None for bound in bounds.values())
        return PixelBudget(**bounds) if has_some else None


def media_of(row: Mapping[str, object], engine: Engine) -> RowMedia:
    """The media of a mapped row, by its `media_info`; of a row without that, what its references' headers say.

    Raises:
        MediaError: If a reference cannot be used.
        CollateError: If the row lacks a media column.
    """
    references = stored_items(row)
    records = [] if row.get(MEDIA_INFO) is None else [_plain(record) for record in row[MEDIA_INFO]]  # type: ignore[attr-defined]
    _check_columns(row, records)
    if not any(references.values()):
        return RowMedia()
    named = {(record["modality"], int(record["item"])) for record in records}
    if named != {(kind, index) for kind, some in references.items() for index in range(len(some))}:
        return plan_references(references, engine)
    by_name = {(kind, index): MediaItem(kind, references[kind][index]) for kind, index in named}  # type: ignore[arg-type, index]
    items = [by_name[record["modality"], int(record["item"])] for record in records]
    counts = [int(one["num_tokens"]) for one in records]
    # Rows that were mapped before there were budgets have no such key.
    bounds = [record.get("max_pixels") for record in records]
    return RowMedia(items, [plan_of(record) for record in records], counts, max_pixels=bounds)


def check_rows(rows: object) -> None:
    """Checks that rows of a batch are rows: a dataset's format may have them be something else.

    Raises:
        CollateError: If they are not.
    """
    if isinstance(rows, Mapping) or not isinstance(rows, Sequence):
        raise CollateError(
            f"expected a list of rows, got {type(rows).__name__}, all of them at once perhaps: have the DataLoader "
            "call the collator (collate_fn), or pass [dataset[0], dataset[1], ...]"
        )
    if not rows:
        raise CollateError("there are no rows to make a batch of")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise CollateError(
                f"expected a row as a mapping of columns, got {type(row).__name__}: use dataset.with_format(None), "
                "or 'torch' or 'numpy'",
                row=f"{index} of the batch",
            )


def _check_columns(row: Mapping[str, object], records: Sequence[MediaRecord]) -> None:
    """A column that was removed or renamed would be a row without media, or with too little."""
    named = {record["modality"] for record in records}
    for modality, column in MEDIA_COLUMNS.items():
        if modality in named and column not in row:
            raise CollateError(
                f"no {column!r} among its columns ({', '.join(row)}), but {MEDIA_INFO} says that it has {modality}s: "
                "keep the columns of a mapped dataset, under their names (plugin.training_args_kwargs() sets "
                "remove_unused_columns=False)"
            )


def _plain(record: MediaRecord) -> MediaRecord:
    """A record with numbers as Python has them: of a dataset with a format, they are tensors or arrays."""
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in record.items()}
    return cast("MediaRecord", plain)


def check_no_budgets(media: Sequence[RowMedia], plugin: str) -> None:
    """Checks that no row has a budget, for plugins that process media in a way of their own.

    Raises:
        CollateError: If one has.
    """
    row = next((index for index, one in enumerate(media) if one.budget is not None), None)
    if row is not None:
        raise CollateError(
            f"it was shrunk to a budget of its own, of which the get_mm_inputs of {plugin} cannot know: map the "
            "dataset with another on_overflow",
            row=f"{row} of the batch",
        )


def plan_references(references: Mapping[Modality, Sequence[MediaReference]], engine: Engine) -> RowMedia:
    """Plans references from their headers; images need no plan to be decoded.

    Raises:
        MediaError: If one cannot be used. Names column, index and source.
    """
    items: list[MediaItem] = []
    plans: list[MediaPlan | None] = []
    for modality in MODALITIES:
        some = [MediaItem(modality, reference) for reference in references.get(modality, ())]
        if modality == "image":
            items += some
            plans += [None] * len(some)
            continue
        for item, own in zip(some, engine.media.plan(some), strict=True):
            items += [item] * len(own)
            plans += own
    return RowMedia(items, plans)


def order_by_text(
    engine: Engine, ids: Sequence[int], modalities: Sequence[Modality], made: Sequence[Expansion]
) -> list[int]:
    """The order in which a tokenised row has its items, where nothing but the token ids tells.

    Items of one modality are in order. Among those of several, whichever is found next in the text comes next.

    Args:
        engine: Knows the tokens.
        ids: The row's token ids.
        modalities: The modality of each item.
        made: What each becomes in the text.

    Returns:
        Positions of the items. Their own order where the text has not all of them.
    """
    tokens = np.asarray(ids)
    media = engine.is_media_token(tokens)
    kept = tokens[~(media & np.concatenate([[False], media[1:] & (tokens[1:] == tokens[:-1])]))]
    text = engine.tokenizer.decode(kept.tolist(), clean_up_tokenization_spaces=False)
    queues = {
        modality: [position for position, kind in enumerate(modalities) if kind == modality] for modality in MODALITIES
    }
    order: list[int] = []
    last = 0
    while len(order) < len(modalities):
        nexts = [queue[0] for queue in queues.values() if queue]
        found = {position: text.find(made[position].text, last) for position in nexts}
        there = [position for position in nexts if found[position] >= 0]
        if not there:
            return list(range(len(modalities)))
        position = min(there, key=lambda position: found[position])
        queues[modalities[position]].pop(0)
        order.append(position)
        last = found[position] + len(made[position].text)
    return order


def split_rows(
    images: Sequence[MediaReference],
    videos: Sequence[MediaReference],
    audios: Sequence[MediaReference],
    lengths: Mapping[Modality, Sequence[int]],
) -> list[dict[Modality, list[MediaReference]]]:
    """Distributes flat lists of references over rows.

    Raises:
        CollateError: If the counts do not add up to the references.
    """
    supplies: dict[Modality, Sequence[MediaReference]] = {"image": images, "video": videos, "audio": audios}
    num_rows = max((len(counts) for counts in lengths.values()), default=0)
    rows: list[dict[Modality, list[MediaReference]]] = [{} for _ in range(num_rows)]
    for modality, references in supplies.items():
        counts = lengths[modality]
        if sum(counts) != len(references):
            raise CollateError(
                f"{_LENGTHS[modality]} counts {sum(counts)} {modality}(s) in {len(counts)} row(s), got "
                f"{len(references)}"
            )
        ends = np.cumsum([0, *counts]).tolist()
        for row, (start, end) in zip(rows, pairwise(ends), strict=False):
            row[modality] = list(references[start:end])
    return rows


def flat_references(
    media: Sequence[RowMedia], sampling_rate: int
) -> tuple[list[MediaReference], list[MediaReference], list[MediaReference], dict[Modality, list[int]]]:
    """The images, videos and audio of a batch as `get_mm_inputs` takes them, with how many each row has of each."""
    lists: dict[Modality, list[MediaReference]] = {modality: [] for modality in MODALITIES}
    lengths: dict[Modality, list[int]] = {modality: [] for modality in MODALITIES}
    for row in media:
        following = [*row.items[1:], None]
        items = [
            MediaItem(item.modality, _of_these_frames(item.reference, plan))
            for item, plan, after in zip(row.items, row.plans, following, strict=True)
            if item is not after
        ]
        items += [MediaItem(blank.modality, as_reference(blank, sampling_rate)) for blank in row.blanks]
        for modality in MODALITIES:
            own = [item.reference for item in items if item.modality == modality]
            lists[modality] += own
            lengths[modality].append(len(own))
    return lists["image"], lists["video"], lists["audio"], lengths


def _of_these_frames(reference: MediaReference, plan: MediaPlan | None) -> MediaReference:
    """A reference to a mapped row's video as one to the frames that were planned."""
    if plan is None or plan.frames is None:
        return reference
    chosen: dict[str, object] = {"indices": list(plan.frames.indices), PLANNED: plan}
    if isinstance(reference, Mapping):
        return {**reference, **chosen}
    if not is_frame_list(reference):
        return {"path": reference, **chosen}
    frames: dict[str, object] = {"frames": reference, **chosen}
    return frames if plan.fps is None else {**frames, "fps": plan.fps}


def as_reference(item: MediaInput, sampling_rate: int) -> MediaReference:
    """A decoded item as a reference to it, for which nothing has to be decoded again."""
    if item.modality == "audio":
        return {"array": item.data, "sampling_rate": sampling_rate}
    if not isinstance(item.shape, VideoShape):
        return item.data
    frames: dict[str, object] = {"frames": list(item.data)}
    return frames if item.shape.fps is None else {**frames, "fps": item.shape.fps}
