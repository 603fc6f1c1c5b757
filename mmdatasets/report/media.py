"""What the media of a mapped dataset comes to: sizes, frames, durations, tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mmdatasets.report.lengths import Histogram, Quantiles, histogram, quantiles
from mmdatasets.types import MODALITIES

if TYPE_CHECKING:
    from mmdatasets.report.columns import FloatArray, MediaTable
    from mmdatasets.types import Modality


class MediaFacts(TypedDict):
    """The items of one modality, in the order and under the names in which a page shows them.

    Attributes:
        items: How many there are; an item that several rows refer to counts in each.
        rows: Rows that have one or more.
        tokens: Their media tokens.
        quantiles: Name with its unit (`"width (pixels)"`) -> distribution.
        histograms: Likewise.
    """

    items: int
    rows: int
    tokens: int
    quantiles: dict[str, Quantiles]
    histograms: dict[str, Histogram]


def media_facts(media: MediaTable, sampling_rate: int | None) -> dict[Modality, MediaFacts]:
    """What is known of each modality that there is.

    Args:
        media: The items.
        sampling_rate: Samples per second that the model takes. Where nothing tells it, audio has samples and no
            seconds.
    """
    found: dict[Modality, MediaFacts] = {}
    for modality in MODALITIES:
        mine = media.of(modality)
        if not mine.any():
            continue
        values = _values(media, modality, mine, sampling_rate)
        facts: MediaFacts = {
            "items": int(mine.sum()),
            "rows": len(np.unique(media.row[mine])),
            "tokens": int(media.tokens[mine].sum()),
            "quantiles": {name: spread for name, one in values.items() if (spread := quantiles(one)) is not None},
            "histograms": {
                name: bars
                for name, one in values.items()
                if name not in _NO_HISTOGRAM and _varies(one) and (bars := histogram(one)) is not None
            },
        }
        found[modality] = facts
    return found


_NO_HISTOGRAM = {"width (pixels)", "height (pixels)", "sound (seconds)", "sound (samples)"}


def _varies(values: FloatArray) -> bool:
    """Whether a histogram tells more than the table does."""
    return len(values) > 0 and bool(values.min() < values.max())


def _values(
    media: MediaTable, modality: Modality, mine: np.ndarray, sampling_rate: int | None
) -> dict[str, FloatArray]:
    """The numbers that describe the items of a modality, by name."""
    tokens = {"media tokens": media.tokens[mine]}
    samples = media.samples[mine]
    if modality == "audio":
        return {**_durations("duration", samples, sampling_rate), **tokens}
    width, height = media.width[mine], media.height[mine]
    sizes = {"width (pixels)": width, "height (pixels)": height}
    pixels = {"size (megapixels)": width * height / 1e6}
    if modality == "image":
        return {**sizes, **pixels, **tokens}
    sound = samples[samples > 0]
    return {
        **sizes,
        "frames decoded": media.frames[mine],
        "frames in the video": media.source_frames[mine],
        "duration (seconds)": _known(media.duration_s[mine]),
        "frame rate (frames per second)": _known(media.fps[mine]),
        **(_durations("sound", sound, sampling_rate) if len(sound) else {}),
        **tokens,
    }


def _durations(name: str, samples: np.ndarray, sampling_rate: int | None) -> dict[str, FloatArray]:
    if sampling_rate is None:
        return {f"{name} (samples)": samples}
    return {f"{name} (seconds)": samples / sampling_rate}


def _known(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]
