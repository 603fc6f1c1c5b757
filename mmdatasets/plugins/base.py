"""The plugin every family derives from: the three stages, the `map` transform and the collator, written once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch
from datasets import Features

from mmdatasets._version import __version__
from mmdatasets.chat.formats import Message, normalise
from mmdatasets.chat.labels import TRAIN_ON, TrainOn
from mmdatasets.collate.checks import check_features, locate_item
from mmdatasets.collate.collator import MediaInputs, MultimodalCollator
from mmdatasets.errors import CollateError, MediaError, MediaProcessorError, MMDatasetsError
from mmdatasets.features import SCHEMA_VERSION, tokenised_features
from mmdatasets.options import MediaOptions
from mmdatasets.planning.snapshot import ProcessorSnapshot
from mmdatasets.plugins.hooks import FamilyHooks
from mmdatasets.plugins.stage_inputs import options_of, refuse_unsupported, written_out
from mmdatasets.transforms.batches import Batch, BatchReader, check_columns, store_images, write_batch
from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.tokenise import insert_bos, tokenise_rows
from mmdatasets.types import Expansion, Modality

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.types import ImageReference

_OTHER_MEDIA_COLUMNS = ("video", "videos", "audio", "audios")
_IMPORTED_IN_PROCESS = os.getpid()


@dataclass(eq=False)
class BasePlugin(FamilyHooks):
    """What `mmdatasets` knows of a model family. Nobody changes a plugin, or its processor, after its construction.

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
        messages_column: Column with the chat.
        images_column: Column with the images.
        family: Name that the plugin was made by.
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
    messages_column: str = "messages"
    images_column: str = "images"
    family: str = "generic"

    def __post_init__(self) -> None:
        if self.train_on not in TRAIN_ON:
            raise ValueError(f"train_on={self.train_on!r} is none of {', '.join(map(repr, TRAIN_ON))}")
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
        images: Sequence[ImageReference],
        videos: Sequence[object],
        audios: Sequence[object],
        processor: ProcessorMixin | None,
    ) -> list[Message]:
        """Writes each placeholder as the text that the model's tokenizer turns into the item's tokens.

        Args:
            messages: The chat, with `<image>` placeholders or image parts.
            images: The row's images. Their headers are read, no pixel is decoded.
            videos: Must be empty: no family here takes videos yet.
            audios: Must be empty: no family here takes audio yet.
            processor: The model's processor; the plugin's own when `None`.

        Returns:
            New messages with string contents.

        Raises:
            MMDatasetsError: If the chat, the images or their match cannot be used.
        """
        refuse_unsupported(videos, audios)
        engine = self._engine_for(processor)
        conversation = normalise(messages, images)
        infos = engine.probe_images(conversation.images, self.images_column)
        expansions = iter(engine.plan_images(conversation.images, infos, self.images_column))
        placeholder = self.image_token or engine.runner.placeholders.get("image", "")
        order = iter(range(len(conversation.images)))

        def written(part: Mapping[str, object]) -> str:
            if part["type"] == "text":
                return str(part["text"])
            index = next(order)
            expansion = self.index_expansion(engine, next(expansions), index)
            before, after = engine.markup(index) if engine.takes_parts else ("", "")
            text = written_out(expansion, engine.runner.image_token) if self.expand_mm_tokens else placeholder
            return f"{before}{text}{after}"

        result = []
        for message in conversation.messages:
            content = message.get("content")
            text = "".join(map(written, content)) if isinstance(content, list) else content
            result.append({**message, "content": text} if "content" in message else dict(message))
        return result

    @property
    def has_own_messages(self) -> bool:
        """Whether the class has a `process_messages` of its own, which the transform then goes by."""
        return type(self).process_messages is not BasePlugin.process_messages

    def process_token_ids(
        self,
        input_ids: list[int],
        labels: list[int] | None,
        images: Sequence[ImageReference],
        videos: Sequence[object],
        audios: Sequence[object],
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
        images: Sequence[ImageReference],
        videos: Sequence[object],
        audios: Sequence[object],
        imglens: Sequence[int],
        vidlens: Sequence[int],
        audlens: Sequence[int],
        batch_ids: Sequence[Sequence[int]],
        processor: ProcessorMixin | None,
    ) -> MediaInputs:
        """Decodes a batch's media and makes the model's inputs of it.

        Args:
            images: The images of all rows, in order.
            videos: Must be empty: no family here takes videos yet.
            audios: Must be empty: no family here takes audio yet.
            imglens: How many of `images` belong to each row.
            vidlens: The same for `videos`.
            audlens: The same for `audios`.
            batch_ids: Token ids of each row; may be empty, then nothing is checked against them.
            processor: The model's processor; the plugin's own when `None`.

        Returns:
            Tensors as the processor makes them (`pixel_values`, `image_grid_thw`, ...), and for each row lists that
            accompany its ids (`mm_token_type_ids`).

        Raises:
            MediaError: If an image cannot be decoded or processed. Names the row of the batch and the image.
            CollateError: If the features made do not fit the media tokens of a row.
        """
        refuse_unsupported(videos, audios)
        if sum(imglens) != len(images):
            raise CollateError(f"imglens counts {sum(imglens)} image(s) in {len(imglens)} row(s), got {len(images)}")
        supply = iter(images)
        rows = [list(islice(supply, count)) for count in imglens]
        return self.batch_inputs(self._engine_for(processor), rows, batch_ids)

    def batch_inputs(
        self,
        engine: Engine,
        images: Sequence[Sequence[ImageReference]],
        batch_ids: Sequence[Sequence[int]],
        planned: Sequence[Sequence[int]] | None = None,
    ) -> MediaInputs:
        """What `get_mm_inputs` returns, for an engine.

        Args:
            engine: The processor at work.
            images: The images of each row.
            batch_ids: Token ids of each row; may be empty, then nothing is checked against them.
            planned: How many features each image of each row was planned to make, where the rows say so.
        """
        inputs: MediaInputs = {}
        num_tokens: list[int] = []
        if any(images):
            features, expansions = self._process(engine, images)
            num_tokens = [expansion.num_media_tokens for expansion in expansions]
            inputs.update(features)  # type: ignore[arg-type]
        if batch_ids:
            check_features(engine, num_tokens, images, batch_ids, planned)
        return self.finish_inputs(engine, inputs, batch_ids)

    def collated_inputs(
        self,
        images: Sequence[Sequence[ImageReference]],
        batch_ids: Sequence[Sequence[int]],
        planned: Sequence[Sequence[int]] | None,
    ) -> MediaInputs:
        """What the collator adds to the token ids; through `get_mm_inputs` where a plugin has its own."""
        if type(self).get_mm_inputs is BasePlugin.get_mm_inputs:
            return self.batch_inputs(self.engine, images, batch_ids, planned)
        flat = [image for row in images for image in row]
        lengths, none = [len(row) for row in images], [0] * len(images)
        return self.get_mm_inputs(flat, [], [], lengths, none, none, batch_ids, self.processor)

    def _process(
        self, engine: Engine, images: Sequence[Sequence[ImageReference]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Decodes and processes images; errors name the row of the batch."""
        lengths = [len(row) for row in images]
        flat = [image for row in images for image in row]
        try:
            decoded = engine.load_images(flat)
            supply = iter(decoded)
            try:
                return self.process_images(engine, [list(islice(supply, length)) for length in lengths])
            except MediaProcessorError as error:
                raise engine.locate_refusal(error, flat, decoded) from error.__cause__
        except MediaError as error:
            if error.index is not None:
                row, error.index = locate_item(error.index, lengths)
                error.at(row=f"{row} of the batch", column=self.images_column)
            raise

    # ------------------------------------------------------------------------------------- transform and collator

    def transform(self, batch: Batch, indices: Sequence[int] | None = None) -> pa.Table | dict[str, list[object]]:
        """Tokenises a batch of chats, for `dataset.map(plugin.transform, batched=True)`.

        Media files are opened for their headers alone. The chat column is replaced by `input_ids`, `labels` (-100
        where nothing is trained), `length` and `media_info`; the images stay undecoded references in `images`; other
        columns pass through. `features` gives the types. (A batch that is a plain dict, as streaming datasets pass it,
        gives a plain dict of the transform's own columns.)

        Args:
            batch: Columns: the chat, and optionally the images.
            indices: Row numbers for error messages: `map(..., with_indices=True)` passes them.

        Raises:
            MMDatasetsError: If a row cannot be used. Names the row, and the column, index and source of its media.
        """
        reader = BatchReader(batch)
        check_columns(reader, self._replaced_columns)
        chats = reader.conversations(self.messages_column)
        media = reader.media(self.images_column, len(chats))
        names: Sequence[int | str] = indices or [f"{index} of the batch" for index in range(len(chats))]
        self._refuse_other_media(reader, names)
        conversations, stored = [], []
        for chat, images, name in zip(chats, media, names, strict=True):
            try:
                conversation = normalise(chat, images)
                stored.append(store_images(conversation.images, self.images_column, self.options.media_root))
            except MMDatasetsError as error:
                raise error.at(row=name) from error.__cause__
            conversations.append(conversation)
        rows = tokenise_rows(self, conversations, names)
        return write_batch(reader, rows, stored, self._replaced_columns)

    def _refuse_other_media(self, reader: BatchReader, names: Sequence[int | str]) -> None:
        for column in _OTHER_MEDIA_COLUMNS:
            for values, name in zip(reader.media(column, len(names)), names, strict=True):
                if values:
                    raise MediaError(
                        "videos and audio are not supported yet; remove the column to train without them",
                        row=name,
                        column=column,
                    )

    @property
    def _replaced_columns(self) -> tuple[str, str]:
        return self.messages_column, self.images_column

    def features(self, source: Features | None = None) -> Features:
        """The types of what `transform` returns, for `map(..., features=plugin.features(dataset.features))`.

        Args:
            source: Features of the dataset that is mapped; its other columns pass through.
        """
        return tokenised_features(source, self._replaced_columns)

    def collator(
        self,
        *,
        padding_side: Literal["left", "right"] | None = None,
        pad_to_multiple_of: int | None = None,
        ensure_media: bool = False,
    ) -> MultimodalCollator:
        """The collator that makes batches of mapped rows, for `Trainer(data_collator=...)` or a `DataLoader`.

        Args:
            padding_side: Where rows are padded; as the tokenizer does it when `None`.
            pad_to_multiple_of: Pads to a multiple of this many tokens.
            ensure_media: Gives a batch without media one blank image that is masked out, so that every rank of a
                sharded run executes the vision tower.
        """
        return MultimodalCollator(self, padding_side, pad_to_multiple_of, ensure_media)

    # ------------------------------------------------------------------------------------------------ machinery

    @cached_property
    def engine(self) -> Engine:
        """What the plugin computes with; made at first use, never pickled."""
        if self.processor is None:
            raise MMDatasetsError(
                "this needs a processor: pass one to the stage, or get_mm_plugin(..., processor=processor)"
            )
        return Engine(self, self.processor, self.options)

    def delimiter_ids(self, modality: Modality) -> tuple[int, int]:
        """Ids of the tokens around an item's expansion, -1 for none."""
        return self._delimiter_ids.get(modality, (-1, -1))

    @cached_property
    def _delimiter_ids(self) -> dict[Modality, tuple[int, int]]:
        look_up = self.engine.tokenizer.convert_tokens_to_ids  # once, not for every item of every row
        return {modality: (look_up(before), look_up(after)) for modality, (before, after) in self.delimiters.items()}

    def _engine_for(self, processor: ProcessorMixin | None) -> Engine:
        if processor is None:
            return self.engine
        options = options_of(processor, self.options)
        if processor is self.processor and options == self.options:
            return self.engine
        # The stages are called row by row with the same processor: its engine is kept beside the fields.
        kept: Engine | None = self.__dict__.get("_other_engine")
        if kept is None or kept.runner.processor is not processor or kept.options != options:
            kept = self.__dict__["_other_engine"] = Engine(self, processor, options)
        return kept

    @cached_property
    def snapshot(self) -> ProcessorSnapshot | None:
        """The processor as stable bytes, which is what the plugin pickles and is fingerprinted by."""
        return None if self.processor is None else ProcessorSnapshot.of(self.processor)

    def __getstate__(self) -> dict[str, object]:
        config = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "processor"}
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
        snapshot = state["snapshot"]
        self.__dict__.update(state["config"])  # type: ignore[call-overload]
        self.__dict__["snapshot"] = snapshot
        self.processor = snapshot.restore() if isinstance(snapshot, ProcessorSnapshot) else None
