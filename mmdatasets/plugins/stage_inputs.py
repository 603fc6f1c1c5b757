"""What the three stages take from other trainers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Attribute that trainers set on the processor -> our option.
_ATTRIBUTES = {
    "image_max_pixels": "image_max_pixels",
    "image_min_pixels": "image_min_pixels",
    "video_max_pixels": "video_max_pixels",
    "video_min_pixels": "video_min_pixels",
    "video_fps": "video_fps",
    "video_maxlen": "video_max_frames",
    "audio_sampling_rate": "audio_sampling_rate",
}


def options_of(processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions) -> MediaOptions:
    """Options with what was set as attributes on the processor, which is how other trainers pass media settings.

    Only the three stages read these attributes, and only here.
    """
    found: dict[str, object] = {
        option: getattr(processor, name)
        for name, option in _ATTRIBUTES.items()
        if getattr(options, option) is None and isinstance(getattr(processor, name, None), int | float)
    }
    if getattr(processor, "use_audio_in_video", False) is True:
        found["use_audio_in_video"] = True
    return dataclasses.replace(options, **found) if found else options  # type: ignore[arg-type]
