"""Asks the model's own processor what it makes of a media item, without doing any pixel work.

Beside `quick_audio` and `mmdatasets.chat.traced`, which renders templates, this is the only module that touches
private API of transformers: `_merge_kwargs`, `_process_images` and its siblings, which return the processed tensors
*and* the replacement text of each item.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from transformers.video_utils import VideoMetadata

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.image_forms import ImageHandOver
from mmdatasets.planning.image_layout import with_channels_last
from mmdatasets.planning.inputs import Outputs, as_tensor, blank_input, describe_shape, join_outputs, video_metadata
from mmdatasets.planning.quick_audio import without_spectrograms
from mmdatasets.planning.runs import collapse_runs
from mmdatasets.types import (
    MODALITIES,
    AudioShape,
    Expansion,
    FramePlan,
    ImageInfo,
    MediaInput,
    MediaShape,
    Modality,
    VideoShape,
    modality_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

ProcessorKwargs: TypeAlias = dict[str, object]
SIZE_ARGUMENTS = frozenset({"size", "max_patches", "max_num_tiles", "max_soft_tokens"})
"""Arguments of processors that bound what an image is resized to."""
_KWARGS_GROUP = {"image": "images_kwargs", "video": "videos_kwargs", "audio": "audio_kwargs"}
_PARTS: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
# A medium-sized item of each modality, of which the token of its features is found.
_SIDE, _RATE = 448, 16_000
_REFERENCES: Mapping[Modality, MediaShape] = {
    "image": ImageInfo(_SIDE, _SIDE),
    "video": VideoShape(_SIDE, _SIDE, FramePlan((0, 2, 4, 6), (0.0, 1.0, 2.0, 3.0)), 8, 2.0, 4.0),
    "audio": AudioShape(4 * _RATE),
}


def get_tokenizer(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor; a bare tokenizer is its own."""
    return getattr(processor, "tokenizer", processor)


class ProcessorRunner:
    """Runs one processor under fixed settings, dry at the map stage and for real at the collate stage.

    Args:
        processor: The model's processor, or a bare tokenizer for a text-only model.
        overrides: Per modality, keyword arguments that replace the processor's own, planned and collated alike.
        media_tokens: Placeholder of an item and token of one of its features, where the processor cannot be asked.
        frames_are_independent: Whether the model treats every frame of a video by itself.
    """

    def __init__(
        self,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        overrides: Mapping[Modality, ProcessorKwargs] | None = None,
        media_tokens: Mapping[Modality, tuple[str, str]] | None = None,
        *,
        frames_are_independent: bool = False,
    ) -> None:
        self.processor = processor
        self._dry_processor = without_spectrograms(processor)
        self._image_processor = with_channels_last(processor)
        self.tokenizer = get_tokenizer(processor)
        self.placeholders: dict[Modality, str] = {}
        """What the chat template writes for one item, for example `<|image_pad|>`."""
        for modality in MODALITIES:
            token = getattr(processor, f"{modality}_token", None)
            has_part = any(getattr(processor, part, None) is not None for part in _PARTS[modality])
            if isinstance(token, str) and has_part:
                self.placeholders[modality] = token
        self._known_tokens: dict[Modality, str] = {}
        for modality, (placeholder, feature) in (media_tokens or {}).items():
            self.placeholders[modality], self._known_tokens[modality] = placeholder, feature
        self._frames_are_independent = frames_are_independent
        self._meta_works: dict[Modality, bool] = {}
        self._hand_over = ImageHandOver(self._run_images)
        self._overrides = overrides or {}
        self._kwargs = self._merge_kwargs(self._overrides)

    def _merge_kwargs(self, overrides: Mapping[Modality, ProcessorKwargs]) -> dict[str, ProcessorKwargs]:
        if self.tokenizer is self.processor:
            return {}
        grouped = {_KWARGS_GROUP[modality]: dict(kwargs) for modality, kwargs in overrides.items() if kwargs}
        merged: dict[str, ProcessorKwargs] = self.processor._merge_kwargs(
            self.processor.valid_processor_kwargs,
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            common_kwargs={"return_tensors": "pt"},
            **grouped,
        )
        # Some processors take settings of the whole processor beside those of the modality.
        for modality in MODALITIES:
            wanted = _named_parameters(type(self.processor), modality)  # type: ignore[arg-type]
            group = merged.setdefault(_KWARGS_GROUP[modality], {})
            for name in wanted & (merged.keys() | merged.get("text_kwargs", {}).keys()):
                group[name] = merged[name] if name in merged else merged["text_kwargs"][name]
        return merged

    def kwargs(self, modality: Modality) -> ProcessorKwargs:
        """The processor's merged keyword arguments for a modality, as its own call would use them."""
        return self._kwargs.get(_KWARGS_GROUP[modality], {})

    def sizes(self, modality: Modality) -> bool:
        """Whether its own bound on sizes is overridden for a modality, so that nobody else is to resize that."""
        return not SIZE_ARGUMENTS.isdisjoint(self._overrides.get(modality, {}))

    def setting(self, name: str) -> object | None:
        """A setting of the whole processor, as its own call would use it."""
        return self._kwargs.get(name)

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the processor's call lets the tokenizer add bos and eos to a text that does not start with bos.

        A bare tokenizer's `apply_chat_template` never adds them: the template writes them, or there are none.
        """
        if self.tokenizer is self.processor:
            return False
        return bool(self._kwargs.get("text_kwargs", {}).get("add_special_tokens", True))

    @property
    def returns_token_types(self) -> bool:
        """Whether the processor returns `mm_token_type_ids` (0 text, 1 image, 2 video, 3 audio) with the text."""
        text_kwargs = self._kwargs.get("text_kwargs", {})  # until 5.28 the flag may stand among the text settings
        flag = self._kwargs.get("return_mm_token_type_ids", text_kwargs.get("return_mm_token_type_ids"))
        return bool(flag)

    @cached_property
    def sampling_rate(self) -> int:
        """Samples per second of the audio that the processor takes."""
        part = next((getattr(self.processor, name) for name in _PARTS["audio"] if hasattr(self.processor, name)), None)
        rate: int = self.kwargs("audio").get("sampling_rate") or getattr(part, "sampling_rate", None) or _RATE  # type: ignore[assignment]
        return rate

    @cached_property
    def max_samples(self) -> int | None:
        """The most samples of audio that the processor takes in one piece: it silently cuts longer ones.

        `None` where it does not say, takes any number, or divides long audio itself.
        """
        part = next((getattr(self.processor, name) for name in _PARTS["audio"] if hasattr(self.processor, name)), None)
        defaults = {name: one.default for name, one in inspect.signature(type(part).__call__).parameters.items()}
        settings = defaults | {name: value for name, value in self.kwargs("audio").items() if value is not None}
        limit = settings.get("max_length") or getattr(part, "n_samples", None)
        if not settings.get("truncation") or not isinstance(limit, int):
            return None
        try:
            longest, longer = (self.plan([AudioShape(count)])[0].num_media_tokens for count in (limit, 2 * limit))
        except MediaProcessorError:
            return limit
        return None if longer > longest else limit

    def sample_frames(self, metadata: VideoMetadata, wanted: Mapping[str, object]) -> list[int] | None:
        """The frames that the processor's own video processor takes of a video.

        Args:
            metadata: What is known of the video.
            wanted: `fps` or `num_frames`, where the user says so.

        Returns:
            Indices of frames; `None` where the processor takes all, for want of a policy of its own.

        Raises:
            MediaProcessorError: If the processor cannot sample the video.
        """
        video_processor = self.processor.video_processor
        # As `BaseVideoProcessor.preprocess` fills in what a call leaves out.
        names = video_processor.valid_kwargs.__annotations__
        settings = {name: getattr(video_processor, name, None) for name in names} | self.kwargs("video")
        if not (settings.get("do_sample_frames") or wanted):
            return None
        if "num_frames" in wanted:
            settings["fps"] = None
        elif "fps" in wanted:
            settings["num_frames"] = None
        dropped = ("input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata")
        settings = {name: value for name, value in settings.items() if name not in dropped} | dict(wanted)
        try:
            indices = video_processor.sample_frames(metadata=metadata, **settings)
        except Exception as error:
            raise _refusal(error) from error
        return [int(index) for index in indices]

    @cached_property
    def feature_tokens(self) -> dict[Modality, str]:
        """The token that stands for one feature of a modality, which is not always the placeholder (Gemma 3, Llama 4).

        It is the added token that a medium-sized item's expansion has most of. Videos share it with images in some
        families (InternVL, GLM-4V).
        """
        return {modality: self._find_feature_token(modality) for modality in self.placeholders}

    @property
    def image_token(self) -> str:
        """The token that stands for one image feature."""
        return self.feature_tokens["image"]

    def _find_feature_token(self, modality: Modality) -> str:
        if modality in self._known_tokens:
            return self._known_tokens[modality]
        try:
            text = self._dry_run([_REFERENCES[modality]])[0]
        except MediaProcessorError:  # it may refuse this very item
            return self.placeholders[modality]
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        found = Counter(re.findall("|".join(map(re.escape, sorted(added, key=len, reverse=True))), text))
        return found.most_common(1)[0][0] if found else self.placeholders[modality]

    def collapse(self, text: str) -> Expansion:
        """Shortens every run of a media token in a replacement text."""
        return collapse_runs(text, *dict.fromkeys(self.feature_tokens.values()))

    def plan(self, row: Sequence[MediaShape]) -> list[Expansion]:
        """What the media items of a row become in the text, found without decoding or resizing anything.

        Args:
            row: The items, in the order of the text.

        Raises:
            MediaProcessorError: If the processor refuses items of these shapes.
        """
        expansions = [self.collapse(text) for text in self._dry_run(row)]
        for shape, expansion in zip(row, expansions, strict=True):
            if not expansion.runs:
                raise MediaProcessorError(f"the model's processor makes no token of {describe_shape(shape)}")
        return expansions

    def _dry_run(self, row: Sequence[MediaShape]) -> list[str]:
        # A meta tensor has a shape and no data. Processors that need data get blank items of the shapes instead.
        modalities = {modality_of(shape) for shape in row}
        if all(self._meta_works.get(modality, True) for modality in modalities):
            try:
                texts = self._run([[blank_input(shape, "meta") for shape in row]], dry=True)[1]
            except Exception as error:
                if all(self._meta_works.get(modality, False) for modality in modalities):
                    raise _refusal(error) from error
            else:
                self._meta_works |= dict.fromkeys(modalities, True)
                return texts
        try:
            texts = self._run([[blank_input(shape, "cpu") for shape in row]], dry=True)[1]
        except Exception as error:
            raise _refusal(error) from error
        if len(modalities) == 1:
            self._meta_works |= dict.fromkeys(modalities, False)
        return texts

    def process(self, rows: Sequence[Sequence[MediaInput]]) -> tuple[Outputs, list[Expansion]]:
        """Runs the processor on decoded media.

        Args:
            rows: The items of each row, in the order of the text.

        Returns:
            The processor's outputs (`pixel_values`, `image_grid_thw`, ...) for all items together, each modality in
            the order of the text, with those that only the processor needs; and what each item becomes in the text.

        Raises:
            MediaProcessorError: If the processor refuses an item.
        """
        try:
            outputs, replacements = self._run(rows)
        except Exception as error:  # processors raise what their code raises
            raise _refusal(error) from error
        return outputs, [self.collapse(text) for text in replacements]

    def _run(self, rows: Sequence[Sequence[MediaInput]], *, dry: bool = False) -> tuple[Outputs, list[str]]:
        flat = list(chain(*rows))
        outputs: Outputs = {}
        texts: dict[Modality, Iterator[str]] = {}
        if any(item.modality == "image" for item in flat):
            images = [[item.data for item in row if item.modality == "image"] for row in rows]
            found, replacements = self._hand_over(images)  # type: ignore[arg-type]
            outputs |= found
            texts["image"] = iter(replacements)
        # A video's sound stands among the audio, in the order of the text.
        sounds = [item.data if item.modality == "audio" else item.sound for item in flat]
        heard = [place for place, sound in enumerate(sounds) if sound is not None]
        audio: Outputs = {}
        if heard:
            audio, replacements = self._run_audio([sounds[place] for place in heard], dry)
            own = [text for place, text in zip(heard, replacements, strict=True) if flat[place].modality == "audio"]
            texts["audio"] = iter(own)
        videos = [item for item in flat if item.modality == "video"]
        if videos:
            places = [place for place, item in enumerate(flat) if item.modality == "video"]
            tracks = [heard.index(place) if place in heard else None for place in places]
            found, replacements = self._run_videos(videos, audio, tracks)
            outputs |= found
            texts["video"] = iter(replacements)
        outputs |= audio
        return outputs, [next(texts[item.modality]) for item in flat]

    def for_the_model(self, outputs: Outputs) -> Outputs:
        """Leaves out what only the processor itself needs, as its own call does."""
        unused = {*self.processor.unused_input_names, "video_metadata"}
        # Some inputs are named after the one that is listed (Video-LLaVA: pixel_values_images).
        names = tuple(self.processor.model_input_names)
        kept = {key: value for key, value in outputs.items() if key.startswith(names) and key not in unused}
        return {key: as_tensor(value) for key, value in kept.items()}

    def _run_images(self, images: list[object]) -> tuple[Outputs, list[str]]:
        images = self.processor.prepare_inputs_layout(images=images, **self._kwargs)[0]
        outputs, replacements = self._image_processor._process_images(images, **self.kwargs("image"))
        return dict(outputs), replacements

    def _run_audio(self, audio: Sequence[object], dry: bool) -> tuple[Outputs, list[str]]:
        processor = self._dry_processor if dry else self.processor
        laid_out = processor.prepare_inputs_layout(audio=list(audio))[3]
        kwargs = {"sampling_rate": self.sampling_rate, **self.kwargs("audio")}
        outputs, replacements = processor._process_audio(laid_out, **kwargs)
        return dict(outputs), replacements

    def _run_videos(
        self, videos: Sequence[MediaInput], audio: Outputs, tracks: Sequence[int | None]
    ) -> tuple[Outputs, list[str]]:
        """Runs the video processor on all videos together, or, where it refuses that, on each.

        Args:
            videos: The videos.
            audio: What the processor made of all audio.
            tracks: Which of the audio is each video's own.
        """

        def run(some: Sequence[MediaInput], theirs: Sequence[int | None]) -> tuple[Outputs, list[str]]:
            own = {
                "video_metadata": [video_metadata(video.shape) for video in some],  # type: ignore[arg-type]
                "do_sample_frames": False,
                "return_metadata": True,
            }
            kwargs: ProcessorKwargs = {**self.kwargs("video"), **own}
            if hasattr(self.processor, "load_audio_from_video"):  # takes settings of all modalities
                kwargs = {
                    **self._kwargs,
                    "videos_kwargs": kwargs,
                    "load_audio_from_video": any(track is not None for track in theirs),
                    "processed_audio": audio,
                    "video_to_audio_indices": list(theirs),
                }
            outputs, replacements = self.processor._process_videos([video.data for video in some], **kwargs)
            return dict(outputs), replacements

        if len(videos) > 1:
            try:
                return run(videos, tracks)
            except Exception:  # InternVL, LLaVA-NeXT-Video and others refuse videos of different frame counts
                apart = [run([video], [track]) for video, track in zip(videos, tracks, strict=True)]
                outputs = join_outputs([outputs for outputs, _ in apart], self._frames_are_independent)
                return outputs, [text for _, texts in apart for text in texts]
        return run(videos, tracks)


@cache
def _named_parameters(processor_class: type[ProcessorMixin], modality: Modality) -> frozenset[str]:
    plural = {"image": "images", "video": "videos", "audio": "audio"}[modality]
    method = getattr(processor_class, f"_process_{plural}", None)
    if method is None:
        return frozenset()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(method).parameters.values()
    return frozenset(item.name for item in parameters if item.kind in kinds) - {"self", plural}


def _refusal(error: Exception) -> MediaProcessorError:
    if isinstance(error, MediaProcessorError):
        return error
    if isinstance(error, NotImplementedError) and not str(error):
        lacks = "its class lacks replace_image_token or its like. Write a plugin, as docs/adding_a_family.md shows"
        return MediaProcessorError(f"the model's processor does not say what an item becomes in the text: {lacks}")
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return MediaProcessorError(f"the model's processor refuses it: {reason}")
