"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, and the omni models that see as these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.quick_audio import own_audio_count
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.types import AudioShape, Expansion, ImageInfo, MediaShape, Modality

if TYPE_CHECKING:
    import torch

    from mmdatasets.planning.dry_run import ProcessorRunner
    from mmdatasets.transforms.engine import Engine


_SPAN = ("<|vision_start|>", "<|vision_end|>")


@dataclass(eq=False)
class Qwen2VLPlugin(BasePlugin):
    """One token for each `merge_size` x `merge_size` block of patches, at the image's own aspect ratio."""

    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {"image": _SPAN, "video": _SPAN}
    processor_sizes_videos = True

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """The image processor's own patch count, which equals the dry run and takes microseconds."""
        processor = runner.processor.image_processor
        size = runner.kwargs("image").get("size") or processor.size
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}  # type: ignore[index]
        try:
            patches = processor.get_number_of_image_patches(info.height, info.width, limits)
        except ValueError as error:
            raise MediaProcessorError(f"the model's processor refuses it: {error}") from error
        return Expansion(runner.placeholders["image"], (patches // processor.merge_size**2,))


@dataclass(eq=False)
class Qwen3VLPlugin(Qwen2VLPlugin):
    """Its video processor counts the pixels of all frames together, so that frames are sized before it."""

    processor_sizes_videos = False


@dataclass(eq=False)
class QwenOmniPlugin(Qwen2VLPlugin):
    """Images, videos and audio, and videos together with their sound."""

    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {
        "image": ("<|vision_bos|>", "<|vision_eos|>"),
        "video": ("<|vision_bos|>", "<|vision_eos|>"),
        "audio": ("<|audio_bos|>", "<|audio_eos|>"),
    }

    def plan_item(self, runner: ProcessorRunner, shape: MediaShape) -> Expansion:
        """For audio the processor's own count of tokens, which equals the dry run and takes microseconds."""
        if isinstance(shape, AudioShape) and shape.num_samples > runner.processor.feature_extractor.n_fft:
            count = own_audio_count(runner.processor, runner.kwargs("audio"), shape.num_samples)
            if count:
                return Expansion(runner.placeholders["audio"], (count,))
        return super().plan_item(runner, shape)

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tells the model that sound tracks stand among the tokens of their videos; it miscounts positions else."""
        if engine.options.use_audio_in_video and "video_grid_thw" in batch and "input_features" in batch:
            return {**batch, "use_audio_in_video": True}  # type: ignore[dict-item]
        return batch
