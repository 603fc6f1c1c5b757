"""MiniCPM-V 2.6 and MiniCPM-o 2.6, whose processors are code of their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from mmdatasets.errors import MMDatasetsError
from mmdatasets.planning.dry_run import ProcessorRunner, get_tokenizer
from mmdatasets.planning.inputs import image_input
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.minicpm_media import (
    AUDIO_TAG,
    IMAGE_TAG,
    PER_ROW,
    VIDEO_TAG,
    extract_audio,
    find_bounds,
    place,
    place_image,
    sample_frames,
    slice_limit,
    slice_row,
)
from mmdatasets.plugins.remote_code import call_default
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo, MediaInput, MediaShape, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin
    from transformers.video_utils import VideoMetadata

    from mmdatasets.collate.inputs import MediaInputs

_OLDEST = 2.6
_AUDIO_BOUNDS = {"audio_bounds": ("audio_start_id", "audio_end_id"), "spk_bounds": ("spk_start_id", "spk_end_id")}


@dataclass(eq=False)
class MiniCPMVPlugin(BasePlugin):
    """An image is an overview and up to nine slices, 64 features each, between tokens that the model finds again.

    The processors take no videos: as in the model cards, the frames are the row's images, a line each, and in a row
    with a video no image has a number or more than `VIDEO_SLICES` slices. MiniCPM-o's audio is a span of tokens for
    each second. The model takes everything but the labels in one argument, `data`: so do the batches.
    """

    items_are_independent: ClassVar[bool] = False
    tokens_tell_modality: ClassVar[bool] = False

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """The tags that the processor looks for, and one for videos; features are the unknown token in the text.

        Raises:
            MMDatasetsError: If the processor is an older one, which marks images in another way.
        """
        version = getattr(getattr(processor, "image_processor", None), "version", _OLDEST)
        if version < _OLDEST:
            raise MMDatasetsError(f"MiniCPM-V {version} is not supported, {_OLDEST} and later are")
        feature = get_tokenizer(processor).unk_token
        tags: dict[Modality, str] = {"image": IMAGE_TAG, "video": VIDEO_TAG}
        if _hears(processor):
            tags["audio"] = AUDIO_TAG
        return {modality: (tag, feature) for modality, tag in tags.items()}

    def sample_frames(
        self, runner: ProcessorRunner, metadata: VideoMetadata, wanted: Mapping[str, object]
    ) -> Sequence[int] | None:
        """The frames that the model cards take."""
        return sample_frames(metadata, wanted)

    def max_samples(self, runner: ProcessorRunner) -> int | None:
        """Any number: the processor itself divides what is longer than its encoder takes."""
        return None

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """The image processor's own text for an image of this size, without its number."""
        return place_image(runner, info, None)

    def plan_item(self, runner: ProcessorRunner, shape: MediaShape) -> Expansion:
        """A line for each frame of a video; for audio, what the processor writes for as many samples."""
        return self.plan_row(runner, [shape])[0]

    def plan_row(self, runner: ProcessorRunner, shapes: Sequence[MediaShape]) -> list[Expansion]:
        """What the items of a row become, without numbers: a video among them decides how images are sliced."""
        limit = slice_limit(shapes)
        return [place(runner, shape, limit) for shape in shapes]

    def number_expansions(
        self, engine: Engine, modalities: Sequence[Modality], expansions: Sequence[Expansion]
    ) -> list[Expansion]:
        """A row with videos has no numbers."""
        return list(expansions) if "video" in modalities else super().number_expansions(engine, modalities, expansions)

    def index_expansion(self, engine: Engine, expansion: Expansion, index: int, modality: Modality) -> Expansion:
        """Puts an image's number before it, where the processor's own call does."""
        images = engine.runner.processor.image_processor
        asked = call_default(engine.runner.processor, "use_image_id")
        if modality != "image" or not (images.use_image_id if asked is None else asked):
            return expansion
        return replace(expansion, text=images.get_image_id_placeholder(index) + expansion.text)

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on rows of images alone."""
        return self.process_media(engine, [[image_input(image) for image in row] for row in images])

    def process_media(
        self, engine: Engine, rows: Sequence[Sequence[MediaInput]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the image processor on each row's images and frames, and the feature extractor on all audio.

        Returns:
            Lists with an entry for each row: `pixel_values` (a list of `(3, patch_size, patch_size * num_patches)`,
            one for each overview and slice), `tgt_sizes` (their patches, `(num_slices, 2)`), `image_sizes`. Of audio
            `audio_features` `(num_windows, num_mel_bins, num_frames)`, windows of 30 seconds at most, and
            `audio_feature_lens`, the frames of each row's windows. Then what each item becomes in the text.
        """
        runner = engine.runner
        planned = [self.plan_row(runner, [item.shape for item in row]) for row in rows]
        outputs: dict[str, list[object]] = {name: [] for name in PER_ROW}
        for row, expansions in zip(rows, planned, strict=True):
            made = slice_row(runner, row, expansions)
            for name, values in outputs.items():
                values.append(made[name])
        audio, heard = extract_audio(runner, rows)
        kinds = [item.modality for row in rows for item in row]
        spans = iter(heard)
        flat = [next(spans) if kind == "audio" else one for kind, one in zip(kinds, chain(*planned), strict=True)]
        return {**outputs, **audio}, flat

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """Adds `image_bound`: for each row `(num_slices, 2)`, first feature token and one past the last.

        MiniCPM-o also takes the bounds of audio and of speech, of which there is none.
        """
        if not batch_ids:
            return inputs
        tokenizer = engine.tokenizer
        starts = (tokenizer.im_start_id, tokenizer.slice_start_id)
        ends = (tokenizer.im_end_id, tokenizer.slice_end_id)
        rows = [np.asarray(ids) for ids in batch_ids]
        result: MediaInputs = {name: [[] for _ in rows] for name in PER_ROW}
        result["image_bound"] = [find_bounds(ids, starts, ends) for ids in rows]
        if _hears(engine.runner.processor):
            result |= {"audio_features": [], "audio_feature_lens": []}
            for name, (start, end) in _AUDIO_BOUNDS.items():
                pair = (getattr(tokenizer, start),), (getattr(tokenizer, end),)
                result[name] = [find_bounds(ids, *pair) for ids in rows]
        return {**result, **inputs}

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Puts what the model reads into `data`, with `position_ids`, and leaves beside it what the text model takes.

        The published forward is `forward(data, **kwargs)` and gives `kwargs` to its text model, of which it drops
        `input_ids`.
        """
        mask = batch["attention_mask"]
        positions = (mask.cumsum(dim=1) - 1) * mask
        data = {name: value for name, value in batch.items() if name != "labels"} | {"position_ids": positions}
        outside = {name: batch[name] for name in ("input_ids", "attention_mask", "labels") if name in batch}
        return {"data": data, **outside}  # type: ignore[dict-item]


def _hears(processor: ProcessorMixin | PreTrainedTokenizerBase) -> bool:
    return getattr(processor, "feature_extractor", None) is not None
