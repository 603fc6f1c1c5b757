"""The plugin every family derives from: the three stages, the `map` transform and the collator, written once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from datasets import Features, Value

from mmdatasets._version import __version__
from mmdatasets.chat.formats import (
    PLACEHOLDERS,
    Conversation,
    MediaColumns,
    Message,
    Unplaced,
    check_placeholders,
    normalise,
)
from mmdatasets.chat.labels import TRAIN_ON, TrainOn
from mmdatasets.chat.layouts import LAYOUTS, Layout, LayoutName, find_layout
from mmdatasets.collate.inputs import MediaInputs, make_inputs
from mmdatasets.collate.rows import RowMedia, check_no_budgets, flat_references, plan_references, split_rows
from mmdatasets.errors import MediaError, MMDatasetsError
from mmdatasets.features import SCHEMA_VERSION, tokenised_features
from mmdatasets.options import MediaOptions
from mmdatasets.orphans import end_daemon_with_parent
from mmdatasets.planning.snapshot import ProcessorSnapshot
from mmdatasets.plugins.fitting import Fitting
from mmdatasets.plugins.hooks import FamilyHooks
from mmdatasets.plugins.materialising import Materialising
from mmdatasets.plugins.pickling import canonical
from mmdatasets.plugins.preferences import PreferenceStages
from mmdatasets.plugins.previewing import Previewing
from mmdatasets.plugins.record import Recorded
from mmdatasets.plugins.remembering import Remembering
from mmdatasets.plugins.reporting import Reporting
from mmdatasets.plugins.stage_inputs import options_of
from mmdatasets.plugins.tolerating import Tolerating
from mmdatasets.plugins.training import Training
from mmdatasets.transforms.chats import transform_chats
from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.own_messages import write_messages
from mmdatasets.transforms.tokenise import insert_bos
from mmdatasets.types import Modality

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.transforms.batches import Batch
    from mmdatasets.types import MediaReference

_IMPORTED_IN_PROCESS = os.getpid()


@dataclass(eq=False)
class BasePlugin(
    Training,
    Materialising,
    Reporting,
    FamilyHooks,
    PreferenceStages,
    Previewing,
    Recorded,
    Fitting,
    Remembering,
    Tolerating,
):
    """What `mmdatasets` knows of a model family. Nobody changes a plugin, or its processor, after its construction.

    Registered as `base`, it is the plugin of text-only models, with a tokenizer in the processor's place: it refuses
    media, and adds no special token that the chat template does not write.

    Attributes:
        image_token: The model's image token; the processor's own when `None`.
        video_token: The model's video token; the processor's own when `None`.
        audio_token: The model's audio token; the processor's own when `None`.
        expand_mm_tokens: Whether `process_messages` writes each media token as often as the model needs it. Without,
            it writes it once.
        processor: The model's processor. The three stages also take one; the transform and the collator need this.
        options: How media is read and sized.
        chat_template: Jinja template to use instead of the processor's own.
        allowed_special: Control tokens that count as such when they stand in the data's own text, or `"all"`. Others
            are tokenised as the text they are. Grounding data needs `("<|box_start|>", "<|box_end|>", ...)`, say.
        train_on: What is trained: all that the `"assistant"` writes, its `"last"` message, the `"completion"` (that
            and the tool calls that lead to it), or `"all"` text. Never media tokens, nor messages with
            `"train": False` or `"weight": 0`.
        layout: How the dataset holds its chats, told from its columns when `None`; see
            `mmdatasets.chat.layouts.LayoutName`.
        messages_column: Column with the list of messages, in the layouts that have one; with `layout="text"` the text.
        images_column: Column with the images; `image` where the dataset has no `images`.
        videos_column: Column with the videos, likewise.
        audios_column: Column with the audio, likewise.
        image_placeholder: What stands for an image in text.
        video_placeholder: What stands for a video in text.
        audio_placeholder: What stands for audio in text.
        unplaced_media: What becomes of media that the chat has no place for: `"error"`, or `"first_user"` has it stand
            before the first question, as in TRL's datasets; see `mmdatasets.chat.formats.Unplaced`.
        family: Name that the plugin was made by.

    `Fitting` has the fields that bound the length of a row: `max_length`, `on_overflow`, `shrink_floor`, `row_log`.
    `Remembering` has `metadata_cache`, the directory that keeps what headers say. `Tolerating` has what becomes of
    rows that cannot be used: `on_error`, `max_bad_rows`, `max_consecutive`.
    """

    image_token: str | None = None
    video_token: str | None = None
    audio_token: str | None = None
    expand_mm_tokens: bool = True
    _: dataclasses.KW_ONLY
    processor: ProcessorMixin | PreTrainedTokenizerBase | None = field(default=None, repr=False)
    options: MediaOptions = field(default_factory=MediaOptions)
    chat_template: str | None = field(default=None, repr=False)
    allowed_special: tuple[str, ...] | Literal["all"] = ()
    train_on: TrainOn = "assistant"
    layout: LayoutName | None = None
    messages_column: str = "messages"
    images_column: str = "images"
    videos_column: str = "videos"
    audios_column: str = "audios"
    image_placeholder: str = PLACEHOLDERS["image"]
    video_placeholder: str = PLACEHOLDERS["video"]
    audio_placeholder: str = PLACEHOLDERS["audio"]
    unplaced_media: Unplaced = "error"
    family: str = "generic"

    def __post_init__(self) -> None:
        if self.train_on not in TRAIN_ON:
            raise ValueError(f"train_on={self.train_on!r} is none of {', '.join(map(repr, TRAIN_ON))}")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is none of {', '.join(map(repr, LAYOUTS))}")
        check_placeholders(self.placeholders, self.unplaced_media)
        self.check_fitting()
        self.check_remembering()
        self.check_tolerating(self.row_log)
        if self.processor is None:
            return
        for modality in ("image", "video", "audio"):
            given, own = getattr(self, f"{modality}_token"), getattr(self.processor, f"{modality}_token", None)
            if given is not None and own is not None and given != own:
                kind = type(self.processor).__name__
                raise ValueError(
                    f"{modality}_token={given!r} is not the token of {kind}, which is {own!r}; leave it out to use "
                    "the processor's own"
                )

    # ------------------------------------------------------------------------------------------ the three stages

    def process_messages(
        self,
        messages: Sequence[Message],
        images: Sequence[MediaReference],
        videos: Sequence[MediaReference],
        audios: Sequence[MediaReference],
        processor: ProcessorMixin | None,
    ) -> list[Message]:
        """Writes each placeholder as the text that the model's tokenizer turns into the item's tokens.

        The strings must reach the tokenizer as they are. A chat template that trims strings cuts off what an
        expansion begins or ends with (Gemma 3's newlines): render the turns first and put the contents in afterwards,
        as trainers with templates of their own do.

        Args:
            messages: The chat, with placeholders (`<image>`, `<video>`, `<audio>`) or media parts.
            images: The row's images. Their headers are read, no pixel is decoded.
            videos: The row's videos; likewise.
            audios: The row's audio; likewise.
            processor: The model's processor; the plugin's own when `None`.

        Returns:
            New messages with string contents.

        Raises:
            MMDatasetsError: If the chat, the media or their match cannot be used.
        """
        engine = self._engine_for(processor)
        conversation = self.normalise(messages, {"image": images, "video": videos, "audio": audios}, engine)
        return write_messages(self, engine, conversation)

    @property
    def has_own_messages(self) -> bool:
        """Whether the class has a `process_messages` of its own, which the transform then goes by."""
        return type(self).process_messages is not BasePlugin.process_messages

    def process_token_ids(
        self,
        input_ids: list[int],
        labels: list[int] | None,
        images: Sequence[MediaReference],
        videos: Sequence[MediaReference],
        audios: Sequence[MediaReference],
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorMixin | None,
    ) -> tuple[list[int], list[int] | None]:
        """Changes the ids of a tokenised row where the processor would: few families' put bos behind images."""
        if not self.inserts_bos:
            return input_ids, labels
        engine = self._engine_for(processor)
        return insert_bos(input_ids, labels, self.bos_index(engine, input_ids), tokenizer)

    def get_mm_inputs(
        self,
        images: Sequence[MediaReference],
        videos: Sequence[MediaReference],
        audios: Sequence[MediaReference],
        imglens: Sequence[int],
        vidlens: Sequence[int],
        audlens: Sequence[int],
        batch_ids: Sequence[Sequence[int]],
        processor: ProcessorMixin | None,
    ) -> MediaInputs:
        """Decodes a batch's media and makes the model's inputs of it.

        Args:
            images: The images of all rows, in order.
            videos: The videos of all rows, in order.
            audios: The audio of all rows, in order.
            imglens: How many of `images` belong to each row.
            vidlens: The same for `videos`.
            audlens: The same for `audios`.
            batch_ids: Token ids of each row; may be empty, then nothing is checked against them.
            processor: The model's processor; the plugin's own when `None`.

        Returns:
            Tensors as the processor makes them (`pixel_values`, `image_grid_thw`, ...), and for each row lists that
            accompany its ids (`mm_token_type_ids`).

        Raises:
            MediaError: If an item cannot be decoded or processed. Names the row of the batch and the item.
            CollateError: If counts do not add up, or the features made do not fit the media tokens of a row.
        """
        engine = self._engine_for(processor)
        rows = split_rows(images, videos, audios, {"image": imglens, "video": vidlens, "audio": audlens})
        media = []
        for index, row in enumerate(rows):
            try:
                media.append(plan_references(row, engine))
            except MediaError as error:
                raise error.at(row=f"{index} of the batch") from error.__cause__
        return make_inputs(self, engine, media, batch_ids)

    @property
    def has_own_inputs(self) -> bool:
        """Whether the class has a `get_mm_inputs` of its own, which the collator then goes by."""
        return type(self).get_mm_inputs is not BasePlugin.get_mm_inputs

    def collated_inputs(
        self, media: Sequence[RowMedia], batch_ids: Sequence[Sequence[int]], copies: int = 1
    ) -> MediaInputs:
        """What the collator adds to the token ids; through `get_mm_inputs` where a plugin has its own."""
        if not self.has_own_inputs:
            return make_inputs(self, self.engine, media, batch_ids, copies)
        check_no_budgets(media, type(self).__name__)
        images, videos, audios, lengths = flat_references([*media] * copies, self.engine.runner.sampling_rate)
        return self.get_mm_inputs(
            images, videos, audios, lengths["image"], lengths["video"], lengths["audio"], batch_ids, self.processor
        )

    # --------------------------------------------------------------------------------------------- the transform

    def transform(self, batch: Batch, indices: Sequence[int] | None = None) -> pa.Table | dict[str, list[object]]:
        """Tokenises a batch of chats, for `dataset.map(plugin.transform, batched=True)`.

        Media files are opened for their headers alone. The columns with the chat (see `layout`) are replaced by
        `input_ids`, `labels` (-100 where nothing is trained), `length` and `media_info`, with `max_length` also `fit`;
        media stays undecoded references in `images`, `videos` (and `video_frames`, where a video is a list of images)
        and `audios`, as far as the model takes them; other columns pass through. `features` gives the types. (A batch
        that is a plain dict, as streaming datasets pass it, gives a plain dict of the transform's own columns, with
        `max_length` or `on_error` also of those that pass through: rows may be missing. Have `map` remove those with
        the chat.)

        Args:
            batch: Columns: the chat, and optionally its media and tools.
            indices: Row numbers for error messages: `map(..., with_indices=True)` passes them.

        Raises:
            MMDatasetsError: If a row cannot be used, and `on_error` is `"raise"`. Names the row, and the column, index
                and source of its media.
            TooManyBadRowsError: If more cannot be used than `max_bad_rows` or `max_consecutive` allow.
        """
        return transform_chats(self, batch, indices)

    def normalise(self, messages: object, media: MediaColumns, engine: Engine | None = None) -> Conversation:
        """A row's chat as the templates take it, with its media; see `mmdatasets.chat.formats.normalise`."""
        processor = (engine or self.engine).runner.processor
        for modality, items in media.items():
            if items and modality not in (engine or self.engine).runner.placeholders:
                raise MediaError(
                    f"{type(processor).__name__} takes no {modality}s, but the row has {len(items)}",
                    column=self.media_columns[modality],
                )
        return normalise(messages, media, self.placeholders, self.unplaced_media)

    @property
    def placeholders(self) -> dict[Modality, str]:
        """What stands in text for an item of each modality."""
        return {"image": self.image_placeholder, "video": self.video_placeholder, "audio": self.audio_placeholder}

    @property
    def media_columns(self) -> dict[Modality, str]:
        """The source's column of each modality."""
        return {"image": self.images_column, "video": self.videos_column, "audio": self.audios_column}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        return tuple(self.engine.runner.placeholders)

    def columns_among(self, names: Collection[str]) -> dict[Modality, str]:
        """The media columns of a dataset: one named `image` stands for `images` where there are none of these."""
        return {
            modality: modality if column not in names and column == f"{modality}s" and modality in names else column
            for modality, column in self.media_columns.items()
        }

    def layout_among(self, names: Collection[str], booleans: Collection[str]) -> Layout:
        """How a dataset with these columns, some of them booleans, holds its chats."""
        return find_layout(names, self.layout, self.messages_column, booleans)

    def features(self, source: Features | None = None) -> Features:
        """The types of what `transform` returns, for `map(..., features=plugin.features(dataset.features))`.

        Args:
            source: Features of the dataset that is mapped; its other columns pass through.

        Raises:
            ConversationError: If none of its columns hold a chat.
        """
        names = source or ()
        columns = self.columns_among(names)
        booleans = [name for name, feature in (source or {}).items() if feature == Value("bool")]
        consumed = self.layout_among(names, booleans).consumed(names) if source else ()
        replaced = [*consumed, *(columns[modality] for modality in self.modalities)]
        fitted = self.max_length is not None
        return tokenised_features(self.modalities, source, replaced, fitted=fitted, made_by=self.made_by)

    # ------------------------------------------------------------------------------------------------ machinery

    @cached_property
    def engine(self) -> Engine:
        """What the plugin computes with; made at first use, never pickled."""
        if self.processor is None:
            raise MMDatasetsError(
                "this needs a processor: pass one to the stage, or get_mm_plugin(..., processor=processor)"
            )
        return self.make_engine(self.processor, self.options)

    def make_engine(self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions) -> Engine:
        """What the plugin computes with for a processor and options. A family may check it here."""
        return Engine(self, processor, options)

    def _engine_for(self, processor: ProcessorMixin | None) -> Engine:
        if processor is None:
            return self.engine
        options = options_of(processor, self.options)
        if processor is self.processor and options == self.options:
            return self.engine
        # The stages are called row by row with the same processor: its engine is kept beside the fields.
        kept: Engine | None = self.__dict__.get("_other_engine")
        if kept is None or kept.runner.processor is not processor or kept.options != options:
            kept = self.__dict__["_other_engine"] = self.make_engine(processor, options)
        return kept

    @cached_property
    def snapshot(self) -> ProcessorSnapshot | None:
        """The processor as stable bytes, which is what the plugin pickles and is fingerprinted by."""
        return None if self.processor is None else ProcessorSnapshot.of(self.processor)

    def __getstate__(self) -> dict[str, object]:
        names = [item.name for item in dataclasses.fields(self) if item.name != "processor"]
        config = {name: canonical(getattr(self, name)) for name in names}
        return {
            "version": __version__,
            "schema_version": SCHEMA_VERSION,
            "config": config,
            "snapshot": self.snapshot,
        }

    def __setstate__(self, state: Mapping[str, object]) -> None:
        if os.getpid() != _IMPORTED_IN_PROCESS:
            # A forked child: the parent's OpenMP threads are gone, and waiting for them would never end.
            torch.set_num_threads(1)
        end_daemon_with_parent()
        snapshot = state["snapshot"]
        self.__dict__.update(state["config"])  # type: ignore[call-overload]
        self.__dict__["snapshot"] = snapshot
        self.processor = snapshot.restore() if isinstance(snapshot, ProcessorSnapshot) else None
