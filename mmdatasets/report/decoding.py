"""Decodes single media items of mapped rows as planned, without the model's processor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.features import MEDIA_COLUMNS, MEDIA_INFO, plan_of
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_plan import fit_num_samples
from mmdatasets.media.clip import is_frame_list, split_clip
from mmdatasets.media.image import decode_image
from mmdatasets.media.picture_store import read_pictures
from mmdatasets.media.video import decode_frames, describe_video
from mmdatasets.planning.sound import SOUND
from mmdatasets.report.references import media_columns_of
from mmdatasets.transforms.batches import stored_items
from mmdatasets.types import MODALITIES, MediaPlan

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.features import MediaRecord
    from mmdatasets.options import MediaOptions
    from mmdatasets.report.columns import MediaTable
    from mmdatasets.types import MediaReference, Modality

SHOWN = 10
"""Items in each list of the largest."""


class ItemPlace(TypedDict):
    """Where a media item is."""

    row: int
    column: str
    index: int
    source: str


class TokenItem(ItemPlace):
    """A media item and what it becomes."""

    tokens: int
    size: str


class TimedItem(TokenItem):
    """A media item that was decoded, and how long that took; `None` and an error where it cannot be."""

    seconds: float | None
    error: str | None


def decode_item(
    reference: MediaReference, plan: MediaPlan, options: MediaOptions, sampling_rate: int | None = None
) -> None:
    """Decodes an item as the collator would, and drops the outcome.

    Args:
        reference: The item, as `mmdatasets.transforms.batches.stored_items` gives it.
        plan: What was planned of it.
        options: How media is read.
        sampling_rate: Samples per second that the model takes. When `None`, audio is decoded at its own rate, and the
            number of samples is not compared.

    Raises:
        MediaError: If it cannot be decoded, or is not what was planned.
    """
    if plan.modality == "audio":
        _decode_sound(reference, plan, options, sampling_rate)
    elif plan.materialised:
        _read_stored(reference, plan, options, sampling_rate)
    elif plan.modality == "image":
        image = decode_image(reference, options)
        _check_size(image.shape[2], image.shape[1], plan)
    elif plan.frames is None:
        raise MediaDecodeError("the plan of a video has no frames: map the dataset again")
    else:
        frames = decode_frames(reference, plan.frames, options)
        _check_size(frames.shape[3], frames.shape[2], plan)
        if plan.num_samples is not None:
            _decode_sound(split_clip(reference).reference, plan, options, sampling_rate)


def _decode_sound(reference: object, plan: MediaPlan, options: MediaOptions, sampling_rate: int | None) -> None:
    rate = probe_audio(reference, options).sampling_rate if sampling_rate is None else sampling_rate
    samples = decode_audio(reference, options, rate, start_s=plan.start_s or 0.0, end_s=plan.end_s)
    if sampling_rate is not None:
        fit_num_samples(samples, plan.num_samples or 0, rate)


def _read_stored(reference: MediaReference, plan: MediaPlan, options: MediaOptions, sampling_rate: int | None) -> None:
    """Reads what stands in the place of an original: a file of pictures, or one for each frame."""
    pictures, sound = reference, None
    if isinstance(reference, Mapping) and SOUND in reference:
        pictures, sound = reference["frames"], reference[SOUND]  # type: ignore[assignment]
    for picture in pictures if is_frame_list(pictures) else [pictures]:
        read_pictures(picture, options)
    if sound is not None:
        _decode_sound(sound, plan, options, sampling_rate)


def _check_size(width: int, height: int, plan: MediaPlan) -> None:
    if (width, height) != (plan.width, plan.height):
        raise MediaDecodeError(
            f"it decodes to {width}x{height} pixels, but {plan.width}x{plan.height} were planned: the file changed "
            "after the map; map the dataset again"
        )


class RowMediaReader:
    """Finds the references of a mapped dataset's rows, row by row.

    Args:
        dataset: The mapped dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._rows = dataset.select_columns([*media_columns_of(dataset.features), MEDIA_INFO]).with_format(None)

    def items(self, row: int) -> tuple[dict[Modality, list[MediaReference]], list[MediaRecord]]:
        """A row's references by modality, and what `media_info` says of them.

        Raises:
            MediaError: If the frames of a video are missing.
        """
        values = self._rows[row]
        return stored_items(values), values[MEDIA_INFO]


def describe_item(reference: object) -> str:
    """Says in a few words where an item is."""
    if isinstance(reference, Mapping) and SOUND in reference:
        reference = reference["frames"]
    return describe_video(reference)


def describe_size(record: MediaRecord) -> str:
    """Says in a few words how large an item is, by its record."""
    if record["width"] is None:
        return f"{record['num_samples'] or 0:,} samples"
    size = f"{record['width']}x{record['height']} pixels"
    indices = record["frame_indices"]
    return size if indices is None else f"{len(indices)} frames of {size}"


def items_with_most_tokens(dataset: Dataset, media: MediaTable) -> list[TokenItem]:
    """The media items that become most tokens, each file once."""
    return [found for found, _, _ in _distinct(dataset, media, media.tokens, SHOWN)]


def time_largest(
    dataset: Dataset, media: MediaTable, count: int, options: MediaOptions, sampling_rate: int | None
) -> list[TimedItem]:
    """Decodes the items that have most pixels (of all frames that are decoded) or samples, and measures how long.

    Args:
        dataset: The mapped dataset.
        media: Its media items.
        count: How many different ones.
        options: How media is read.
        sampling_rate: See `decode_item`.

    Returns:
        The slowest first, those that cannot be decoded before these. Each is decoded twice; the second time counts.
    """
    timed: list[TimedItem] = []
    for found, reference, plans in _distinct(dataset, media, media.work, count):
        seconds, error = None, None
        try:
            for _ in range(2):  # the first time loads decoders and the file itself
                start = time.perf_counter()
                for plan in plans:
                    decode_item(reference, plan, options, sampling_rate)
                seconds = time.perf_counter() - start
        except MediaError as problem:
            error = problem.message
        timed.append({**found, "seconds": None if error else seconds, "error": error})
    return sorted(timed, key=lambda item: -float("inf") if item["seconds"] is None else -item["seconds"])


def _distinct(
    dataset: Dataset, media: MediaTable, values: np.ndarray, count: int
) -> list[tuple[TokenItem, MediaReference, Sequence[MediaPlan]]]:
    """The items with the largest values, each file once. Looks at so many at most, however often a file is there."""
    order = np.lexsort((media.row, -values))[: count * 20]
    reader = RowMediaReader(dataset)
    found: dict[tuple[str, str], tuple[TokenItem, MediaReference, Sequence[MediaPlan]]] = {}
    for position in order.tolist():
        if len(found) == count:
            break
        row, index = int(media.row[position]), int(media.item[position])
        modality = MODALITIES[media.modality[position]]
        references, records = reader.items(row)
        mine = [one for one in records if (one["modality"], one["item"]) == (modality, index)]
        if index >= len(references[modality]):
            continue
        reference = references[modality][index]
        item: TokenItem = {
            "row": row,
            "column": MEDIA_COLUMNS[modality],
            "index": index,
            "source": describe_item(reference),
            "tokens": int(media.tokens[position]),
            "size": describe_size(mine[0]),
        }
        found.setdefault((item["source"], item["size"]), (item, reference, [plan_of(one) for one in mine]))
    return list(found.values())
