"""Media that was materialised: what the processor makes of an item first, stored in its place and read back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.audio import decode_audio
from mmdatasets.media.audio_plan import fit_num_samples
from mmdatasets.media.identity import identity
from mmdatasets.media.picture_store import read_pictures
from mmdatasets.planning.sealed import SealedPixels, StoredResizes
from mmdatasets.planning.sound import SOUND
from mmdatasets.types import ImageInfo, MediaInput, MediaItem, VideoShape

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import MediaPlan, MediaShape

WHOLE = "whole"
"""Name of a picture that is what the processor gets, not resized."""


def item_key(item: MediaItem, plan: MediaPlan | None) -> Hashable:
    """Equal for items that decode to the same."""
    # A plan says which frames or samples; of an original image all pixels are decoded.
    says_nothing = item.modality == "image" and not (plan is not None and plan.materialised)
    return item.modality, identity(item.reference), None if says_nothing else plan


def load_stored(item: MediaItem, shape: MediaShape, options: MediaOptions, sampling_rate: int) -> MediaInput:
    """Reads an image or video that was materialised.

    Args:
        item: Refers to what is stored: a file of pictures, or one for each frame; with `SOUND` that of its sound.
        shape: The shape in which the processor gets the original.
        options: How media is read.
        sampling_rate: Of the sound.

    Returns:
        The pixels where they are stored whole, else what stands in for them; see `mmdatasets.planning.sealed`.

    Raises:
        MediaError: If it cannot be read, or is not what was planned.
    """
    if isinstance(shape, ImageInfo):
        pictures = read_pictures(item.reference, options)
        return MediaInput(shape, as_processor_input([pictures], (3, shape.height, shape.width)))
    if not isinstance(shape, VideoShape):
        raise MediaError("audio that was materialised is an ordinary file")
    reference, sound = item.reference, None
    if isinstance(reference, Mapping):
        reference, sound = reference["frames"], reference[SOUND]  # type: ignore[assignment]
    frames = _read_frames(reference, options)  # type: ignore[arg-type]
    count = len(shape.frames.indices)
    if len(frames) != count:
        raise MediaDecodeError(f"{len(frames)} frames are stored of {count} that were planned")
    data = as_processor_input(frames, (count, 3, shape.height, shape.width))
    if (sound is None) != (shape.num_samples is None):
        raise MediaDecodeError("its sound was materialised otherwise than it was planned; map the dataset again")
    if sound is None:
        return MediaInput(shape, data)
    samples = decode_audio(sound, options, sampling_rate)
    return MediaInput(shape, data, fit_num_samples(samples, shape.num_samples or 0, sampling_rate))


def as_processor_input(frames: Sequence[Mapping[str, torch.Tensor]], shape: Sequence[int]) -> torch.Tensor:
    """What the processor gets in place of an original.

    Args:
        frames: The pictures of each frame, `torch.uint8` `(3, height, width)`, by how they were made. An image has one
            frame.
        shape: The original's shape.

    Raises:
        MediaDecodeError: If they are not of an original of this shape.
    """
    if not all(WHOLE in pictures for pictures in frames):
        return SealedPixels.stand_in(shape, StoredResizes(frames))
    if any(pictures[WHOLE].shape[-2:] != tuple(shape[-2:]) for pictures in frames):
        raise MediaDecodeError("it is stored at another size than was planned; map the dataset again")
    # As decoders give pixels, which is the fast way to resize them.
    whole = [pictures[WHOLE].permute(1, 2, 0) for pictures in frames]
    joined = whole[0] if len(shape) == 3 else torch.stack(whole)
    return joined.contiguous().movedim(-1, -3)


def _read_frames(references: Sequence[object], options: MediaOptions) -> list[dict[str, torch.Tensor]]:
    frames = []
    for index, reference in enumerate(references):
        try:
            frames.append(read_pictures(reference, options))
        except MediaError as error:
            raise type(error)(f"frame {index}: {error.message}", source=error.source) from error
    return frames
