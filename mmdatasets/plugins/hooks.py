"""What a family may say of itself. The defaults ask its processor; a family with a deviation overrides one hook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from mmdatasets.collate.isolation import Isolation, isolation_of
from mmdatasets.options import MediaOptions
from mmdatasets.planning.inputs import image_input
from mmdatasets.planning.own_sizes import image_size_counts_pixels, own_size
from mmdatasets.planning.sizes import size_between
from mmdatasets.planning.tiles import TileBound, tile_bound
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import AudioShape, Expansion, ImageInfo, MediaInput, MediaShape, Modality

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
    from transformers.video_utils import VideoMetadata

    from mmdatasets.collate.inputs import MediaInputs
    from mmdatasets.planning.dry_run import ProcessorKwargs, ProcessorRunner
    from mmdatasets.transforms.tokenise import Edit


class FamilyHooks:
    """The data and hooks of a family."""

    default_chat_template: ClassVar[str | None] = None
    """Chat template for families whose checkpoints come without one."""
    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {}
    """The tokens directly around an expansion that belong to its media span, where the chat template writes none."""
    items_are_independent: ClassVar[bool] = True
    """Whether what an item becomes does not depend on the row's other items. (In LLaVA-OneVision it does.)"""
    inserts_bos: ClassVar[bool] = False
    """Whether the processor puts bos at `bos_index` of a row that has none."""
    processor_sizes_videos: ClassVar[bool] = False
    """Whether the edges in the video processor's `size` are numbers of pixels of a frame. (Of images it is asked.)"""
    tokens_tell_modality: ClassVar[bool] = True
    """Whether token ids alone tell a row's images and videos apart. (In MiniCPM-V a frame is an image.)"""
    frames_are_independent: ClassVar[bool] = False
    """Whether the model treats every frame by itself, so that those of several videos may stand in one tensor."""
    outputs_are_stacked: ClassVar[bool] = True
    """Whether the processor's tensors stack items, patches or rows along their first dimension alone, so that those of
    the same rows once more are these tensors once more."""
    sizes_depend_on_batch: ClassVar[bool] = False
    """Whether an item is resized otherwise in other batches, so that it cannot be done once for all."""
    towers: ClassVar[tuple[tuple[Modality, ...], ...]] = (("image", "video"), ("audio",))
    """The modalities of each encoder of the model. A blank item of any of them has the encoder run."""

    def processor_kwargs(
        self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
    ) -> dict[Modality, ProcessorKwargs]:
        """The processor's own arguments for a pixel budget.

        That is its `size`, where that counts pixels, or the argument that bounds what it enlarges images to. A
        modality with one of these is not resized before the processor.
        """
        kwargs: dict[Modality, ProcessorKwargs] = {}
        low, high = options.image_min_pixels, options.image_max_pixels
        if (low, high) != (None, None) and image_size_counts_pixels(processor):
            frames = self.frames_of_image(processor)
            bounds = (None if bound is None else bound * frames for bound in (low, high))
            kwargs["image"] = {"size": size_between(own_size(processor, "image") or {}, *bounds)}
        elif high is not None and (tiles := self.tiles_of(processor)) is not None:
            kwargs["image"] = tiles.within(high)
        low, high = options.video_min_pixels, options.video_max_pixels
        if (low, high) != (None, None) and self.processor_sizes_videos:
            kwargs["video"] = {"size": size_between(own_size(processor, "video") or {}, low, high)}
        return kwargs

    def tiles_of(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> TileBound | None:
        """The argument that bounds what the processor enlarges images to, remembered beside the fields."""
        kept: tuple[object, TileBound | None] = self.__dict__.get("_tiles", (None, None))
        if kept[0] is not processor:
            kept = self.__dict__["_tiles"] = processor, tile_bound(processor)
        return kept[1]

    def frames_of_image(self, processor: ProcessorMixin) -> int:
        """How many times the image processor's `size` counts an image's pixels."""
        return 1

    def frame_multiple(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> int:
        """What the processor rounds the sides of a video's frames to multiples of, as far as it says; else 1."""
        video_processor = getattr(processor, "video_processor", None)  # code of model hubs has none
        patch, merge = (getattr(video_processor, name, None) for name in ("patch_size", "merge_size"))
        return patch * merge if isinstance(patch, int) and isinstance(merge, int) else 1

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """What the chat template writes for an item, and the token that stands for one of its features.

        For processors that cannot be asked: code from a model hub lacks the hooks of transformers' own. Of modalities
        that are not named the processor is asked.
        """
        return {}

    def sample_frames(
        self, runner: ProcessorRunner, metadata: VideoMetadata, wanted: Mapping[str, object]
    ) -> Sequence[int] | None:
        """The frames that the model's own policy takes of a video; arguments and result as `runner.sample_frames`."""
        return runner.sample_frames(metadata, wanted)

    def max_samples(self, runner: ProcessorRunner) -> int | None:
        """The most samples of audio that the processor takes in one piece; `None` where it takes any number."""
        return runner.max_samples

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """What an image of a size becomes in the text. A family may override the dry run with an equal closed form."""
        return self.plan_item(runner, info)

    def canonical_audio(self, runner: ProcessorRunner, shape: AudioShape) -> AudioShape:
        """A length that becomes the same tokens as this one, so that what audio becomes is remembered for both."""
        return shape

    def plan_item(self, runner: ProcessorRunner, shape: MediaShape) -> Expansion:
        """What a video or audio item of a shape becomes in the text."""
        return runner.plan([shape])[0]

    def plan_row(self, runner: ProcessorRunner, shapes: Sequence[MediaShape]) -> list[Expansion]:
        """What several items of one row become, for families without `items_are_independent`."""
        return runner.plan(shapes)

    def finish_inputs(self, engine: Engine, inputs: MediaInputs, batch_ids: Sequence[Sequence[int]]) -> MediaInputs:
        """The last step of `get_mm_inputs`: adds what depends on the token ids.

        Args:
            engine: The processor at work.
            inputs: What `process_images` made.
            batch_ids: Token ids of each row; may be empty.
        """
        return {**self.sequence_inputs(engine, batch_ids), **inputs} if batch_ids else inputs

    def isolation(self, config: PretrainedConfig, *, trusted: bool = False) -> Isolation:
        """How a model of the family keeps packed sequences apart, or why it does not.

        Args:
            config: The model's configuration.
            trusted: Whether to take the caller's word for a type of model that nobody has looked at.
        """
        return isolation_of(config, trusted=trusted)

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The collator's last step, with everything padded and `labels` at hand."""
        return batch

    def sequence_inputs(self, engine: Engine, batch_ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """What the model takes beside `input_ids`, one value for each token.

        Args:
            engine: The processor at work.
            batch_ids: Token ids of each row.

        Returns:
            Name -> one list for each row, as long as the row's ids.
        """
        if not engine.runner.returns_token_types:
            return {}
        processor = engine.runner.processor
        names = processor.model_input_names
        # Gemma's processors return them under the older name.
        renamed = "mm_token_type_ids" not in names and "token_type_ids" in names
        types = processor.create_mm_token_type_ids([list(ids) for ids in batch_ids])
        return {"token_type_ids" if renamed else "mm_token_type_ids": types}

    def text_edits(self, engine: Engine, text: str) -> Sequence[Edit]:
        """What the family's processor changes in the rendered text before it replaces the placeholders."""
        return ()

    def bos_index(self, engine: Engine, input_ids: Sequence[int]) -> int:
        """Where bos goes in a tokenised row that has none, where `inserts_bos` is set."""
        return 0

    def index_expansion(self, engine: Engine, expansion: Expansion, index: int, modality: Modality) -> Expansion:
        """The expansion of a row's item number `index`, for families that number their items in the text."""
        return expansion

    def number_expansions(
        self, engine: Engine, modalities: Sequence[Modality], expansions: Sequence[Expansion]
    ) -> list[Expansion]:
        """The expansions of a row's items, in the order of the text, each with its number among its modality."""
        seen: Counter[Modality] = Counter()
        result = []
        for modality, expansion in zip(modalities, expansions, strict=True):
            result.append(self.index_expansion(engine, expansion, seen[modality], modality))
            seen[modality] += 1
        return result

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on the images of a batch that has no other media.

        Args:
            engine: The processor at work.
            images: The images of each row, `torch.uint8` tensors `(3, height, width)`; at least one in all.

        Returns:
            What the model takes, by name, and what each image becomes in the text.
        """
        outputs, expansions = engine.runner.process([[image_input(image) for image in row] for row in images])
        return engine.runner.for_the_model(outputs), expansions

    def process_media(
        self, engine: Engine, rows: Sequence[Sequence[MediaInput]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on a batch's media.

        Args:
            engine: The processor at work.
            rows: The items of each row, in the order of the text; at least one in all.

        Returns:
            What the model takes, by name, and what each item becomes in the text.
        """
        if all(item.modality == "image" for row in rows for item in row):
            return self.process_images(engine, [[item.data for item in row] for row in rows])  # type: ignore[misc]
        outputs, expansions = engine.runner.process(rows)
        return engine.runner.for_the_model(outputs), expansions
