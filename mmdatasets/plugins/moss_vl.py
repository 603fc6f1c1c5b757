"""MOSS-VL, whose processor is code of its checkpoints. Images and frames reach the text through cross attention."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.inputs import blank_input, video_metadata
from mmdatasets.planning.runs import collapse_runs
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.remote_code import refusing
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo, MediaInput, MediaShape, Modality, VideoShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin
    from transformers.video_utils import VideoMetadata

    from mmdatasets.collate.inputs import MediaInputs

_MEDIA_COUNTS = "media_nums_per_sample"
_INPUTS = ("pixel_values", "grid_thw", _MEDIA_COUNTS)
_NO_MEDIA = "-"  # the processor refuses empty texts


@dataclass(eq=False)
class MossVLPlugin(BasePlugin):
    """A row without media gets a blank image, which nothing attends to; a batch's images share a pixel budget.

    A video is its frames, each with its time in the text. The videos of a batch share a pixel budget, too. (The
    processor, where it reads files itself, also shares `max_frames` among those of a call; here each may have as many,
    `MediaOptions(video_max_frames=...)` bounds them.)
    """

    outputs_are_stacked: ClassVar[bool] = False  # with more rows, the budget is shared by more
    sizes_depend_on_batch: ClassVar[bool] = True

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """The placeholders that the processor looks for, and the image token, which frames have as well."""
        tokens: dict[Modality, tuple[str, str]] = {"image": (processor.image_placeholder, processor.image_token)}
        if getattr(processor, "video_processor", None) is not None:
            tokens["video"] = (processor.video_placeholder, processor.image_token)
        return tokens

    def sample_frames(
        self, runner: ProcessorRunner, metadata: VideoMetadata, wanted: Mapping[str, object]
    ) -> Sequence[int] | None:
        """As many frames as the video processor says, spread evenly, as it takes them of a file."""
        video_processor, count = runner.processor.video_processor, metadata.total_num_frames
        rate = None if "num_frames" in wanted else wanted.get("fps", video_processor.video_fps)
        number = video_processor.calculate_num_frames(metadata, num_frames=wanted.get("num_frames"), fps=rate)
        indices: list[int] = np.unique(np.linspace(0, count - 1, number).astype(np.int32)).tolist()
        return indices

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """One token; the image processor is asked whether it takes an image of this size."""
        with refusing():
            runner.processor.image_processor(images=[blank_input(info, "meta").data], return_tensors="pt")
        return Expansion(runner.image_token, (1,))

    def plan_item(self, runner: ProcessorRunner, shape: MediaShape) -> Expansion:
        """What the processor writes for a video, asked with frames that have no data."""
        if isinstance(shape, VideoShape) and shape.num_samples is not None:
            raise MediaProcessorError("the model takes no sound: use_audio_in_video=False")
        ids = _process(runner, [[blank_input(shape, "meta")]])["input_ids"][0]
        text = runner.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return collapse_runs(text, runner.image_token)

    def process_media(
        self, engine: Engine, rows: Sequence[Sequence[MediaInput]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on the batch.

        Returns:
            `pixel_values` `(num_patches, patch_dim)`, `grid_thw` `(num_media, 3)` and `media_nums_per_sample`, a
            blank image for rows without included, and what each item becomes in the text.
        """
        outputs = _process(engine.runner, rows)
        expansions = [engine.media.expand_one(item.shape) for row in rows for item in row]
        made = outputs["grid_thw"][:, 0].split(outputs[_MEDIA_COUNTS])
        frames = [count for row, counts in zip(rows, made, strict=True) if row for count in counts.tolist()]
        if frames != [one.num_media_tokens for one in expansions]:
            raise MediaProcessorError(
                f"the model's processor made {frames} frames of items that were planned to have "
                f"{[one.num_media_tokens for one in expansions]}"
            )
        return {name: outputs[name] for name in _INPUTS}, expansions

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """Adds `cross_attention_mask` `(batch, 1, length, max_frames)`, true where a token does not see a frame."""
        if not batch_ids:
            return inputs
        if _MEDIA_COUNTS not in inputs:
            blank = _process(engine.runner, [[] for _ in batch_ids])
            inputs = {**inputs, **{name: blank[name] for name in _INPUTS}}
        mask = engine.runner.processor._create_cross_attention_mask(
            [list(ids) for ids in batch_ids], inputs["grid_thw"], inputs[_MEDIA_COUNTS]
        )
        return {**inputs, "cross_attention_mask": mask}

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Hides all images from padding, and gives `media_nums_per_sample` as the list that the model takes."""
        padding = batch["attention_mask"][:, None, :, None] == 0
        counts: list[int] = batch[_MEDIA_COUNTS].tolist()
        masked = batch["cross_attention_mask"] | padding
        return {**batch, "cross_attention_mask": masked, _MEDIA_COUNTS: counts}  # type: ignore[dict-item]


def _process(runner: ProcessorRunner, rows: Sequence[Sequence[MediaInput]]) -> Mapping[str, Any]:
    """Runs the processor on texts of nothing but the rows' placeholders."""
    processor, flat = runner.processor, list(chain(*rows))
    texts = ["".join(runner.placeholders[item.modality] for item in row) or _NO_MEDIA for row in rows]
    images = [item.data for item in flat if item.modality == "image"]
    videos = [item for item in flat if item.modality == "video"]
    media = {"images": images or None, "videos": [str(index) for index in range(len(videos))] or None}
    with refusing():
        outputs: Mapping[str, Any] = _reading(processor, videos)(
            text=texts, **media, padding=True, return_tensors="pt"
        )
    return outputs


def _reading(processor: ProcessorMixin, videos: Sequence[MediaInput]) -> ProcessorMixin:
    """The processor with a video processor that has these frames where it would read files: it takes nothing else."""
    if not videos:
        return processor
    frames = [video.data for video in videos]
    known = [video_metadata(video.shape) for video in videos]  # type: ignore[arg-type]
    reading = copy.copy(processor)
    reading.video_processor = copy.copy(processor.video_processor)
    reading.video_processor.fetch_videos = lambda *args, **kwargs: (frames, known)
    return reading
