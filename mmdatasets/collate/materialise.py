"""Does the first part of collating once for all epochs: decodes media, and keeps what the processor makes of it first.

What a model's image processor does with an image begins with resizing it: once, or to several sizes (tiles and a
thumbnail). The rest is quick. So the results of resizing are stored in the place of originals, and given to the
processor when it asks for them; see `mmdatasets.planning.sealed`, which also finds out what a processor resizes an
item to, and whether it uses the original otherwise. Of audio the samples are stored that the processor gets.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from mmdatasets.collate.materialised_rows import (
    StoredItem,
    check_size,
    media_rows,
    num_bytes,
    with_stored,
    write_rows,
)
from mmdatasets.collate.rows import RowMedia, media_of
from mmdatasets.errors import CollateError, MaterialiseError, MediaProcessorError
from mmdatasets.features import MEDIA_INFO
from mmdatasets.media.audio_store import write_samples
from mmdatasets.media.picture_store import read_pictures, write_pictures
from mmdatasets.options import MediaOptions
from mmdatasets.planning.sealed import ResizeRecorder, SealedPixels
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.batches import BatchReader, row_names
from mmdatasets.transforms.report import report_rows
from mmdatasets.transforms.stored import WHOLE, as_processor_input, item_key
from mmdatasets.types import MediaInput, MediaPlan, Modality

if TYPE_CHECKING:
    import pyarrow as pa

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.batches import Batch
    from mmdatasets.transforms.engine import Engine

Unsupported: TypeAlias = Literal["error", "keep"]
"""What becomes of items that cannot be materialised: an error, or they stay as they are."""

Pictures: TypeAlias = dict[str, torch.Tensor]
"""What is stored of an image or frame, by how the processor makes it."""


@dataclass
class Materialiser:
    """Materialises the rows of a batch.

    Attributes:
        plugin: The plugin that mapped them.
        quality: Of lossy files; `None` for files that lose nothing.
        unsupported: What becomes of items that cannot be materialised.
        store: Local directory for the files; they are in the rows themselves when `None`.
    """

    plugin: BasePlugin
    quality: int | None = None
    unsupported: Unsupported = "error"
    store: str | None = None
    _known: dict[Hashable, StoredItem | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        quality = self.quality
        if quality is not None and (type(quality) is not int or not 1 <= quality <= 100):
            raise ValueError(f"quality must be an integer from 1 to 100, or None to lose nothing; got {quality!r}")
        if self.unsupported not in get_args(Unsupported):
            raise ValueError(f"unsupported must be 'error' or 'keep', got {self.unsupported!r}")

    def materialise(self, row: Mapping[str, object]) -> dict[str, object]:
        """The media columns of a mapped row, with stored media.

        Raises:
            CollateError: If the row was not mapped.
            MediaError: If an item cannot be decoded, or cannot be materialised. Names column, index and source.
        """
        media = media_of(row, self.plugin.engine)
        if media.items and media.num_tokens is None:
            raise CollateError(
                f"{MEDIA_INFO} does not describe its media: map the dataset with plugin.transform first"
            )
        engine = self.plugin.engine.at_budget(media.budget)
        return with_stored(row, self._store_row(engine, media), self.store)

    def _store_row(self, engine: Engine, media: RowMedia) -> list[StoredItem | None]:
        """What is stored of each item; `None` where it stays as it is."""
        plans = [cast("MediaPlan", plan) for plan in media.plans]
        keys = [(item_key(item, None), plan, media.budget) for item, plan in zip(media.items, plans, strict=True)]
        stored: dict[int, StoredItem | None] = {}
        visual: list[int] = []
        for position, (item, plan) in enumerate(zip(media.items, plans, strict=True)):
            if plan.materialised:
                stored[position] = None
            elif item.modality != "audio" and not self.plugin.items_are_independent:
                visual.append(position)
            elif keys[position] in self._known:
                stored[position] = self._known[keys[position]]
            elif item.modality == "audio":
                stored[position] = self._known[keys[position]] = self._store_audio(engine, media, position)
            else:
                stored[position] = self._known[keys[position]] = self._store_visual(engine, media, [position])[0]
        if visual:  # what becomes of one depends on the others
            stored |= zip(visual, self._store_visual(engine, media, visual), strict=True)
        return [stored[position] for position in range(len(media.items))]

    def _store_audio(self, engine: Engine, media: RowMedia, position: int) -> StoredItem:
        made = engine.media.load_at(media.items, position, media.plans[position], {})
        return StoredItem(sound=self._samples(cast("np.ndarray", made.data), engine))

    def _samples(self, samples: np.ndarray, engine: Engine) -> bytes:
        return write_samples(samples, engine.runner.sampling_rate, exact=self.quality is None)

    def _store_visual(self, engine: Engine, media: RowMedia, positions: Sequence[int]) -> list[StoredItem | None]:
        known: dict[object, MediaInput] = {}
        plans = [cast("MediaPlan", media.plans[position]) for position in positions]
        made = [
            engine.media.load_at(media.items, position, plan, known)
            for position, plan in zip(positions, plans, strict=True)
        ]
        try:
            return self._store_resized(engine, made)
        except MediaProcessorError as error:
            whole = [_resized_before(item, plan) for item, plan in zip(made, plans, strict=True)]
            refused = [at for at, frames in zip(positions, whole, strict=True) if frames is None]
            if refused and self.unsupported == "error":
                said = error if self._is_refused(engine, made) else self._explained(error, made[0].modality)
                raise engine.media.locate(said, media.items, refused[0]) from error
        return [
            None if frames is None else self._stored(engine, item, frames)
            for item, frames in zip(made, whole, strict=True)
        ]

    def _is_refused(self, engine: Engine, made: Sequence[MediaInput]) -> bool:
        """Whether the processor takes not even the originals."""
        try:
            self.plugin.process_media(engine, [made])
        except MediaProcessorError:
            return True
        return False

    def _explained(self, error: MediaProcessorError, modality: Modality) -> MaterialiseError:
        kind = type(self.plugin.engine.runner.processor).__name__
        return MaterialiseError(
            f"{kind} takes no materialised {modality}s: {error.message}. Pass unsupported='keep' "
            "(map(..., fn_kwargs={'unsupported': 'keep'}); of preprocess an argument, --unsupported keep) to leave "
            "these as they are"
        )

    def _stored(self, engine: Engine, made: MediaInput, frames: Sequence[Pictures]) -> StoredItem:
        sound = None if made.sound is None else self._samples(made.sound, engine)
        return StoredItem(tuple(write_pictures(pictures, self.quality) for pictures in frames), sound)

    def _store_resized(self, engine: Engine, made: Sequence[MediaInput]) -> list[StoredItem | None]:
        """What the processor resizes some items of a row to.

        Raises:
            MediaProcessorError: If it needs the originals.
        """
        self._check_family()
        recorders = [ResizeRecorder() for _ in made]
        sealed = [
            replace(item, data=SealedPixels.seal(cast("torch.Tensor", item.data), recorder))
            for item, recorder in zip(made, recorders, strict=True)
        ]
        result = self.plugin.process_media(engine, [sealed])
        if any(isinstance(leaf, SealedPixels) for leaf in tree_leaves(result[0])):
            raise MediaProcessorError("it hands pixels on as they are")
        frames = [_smallest(item, recorder) for item, recorder in zip(made, recorders, strict=True)]
        stored = [self._stored(engine, item, pictures) for item, pictures in zip(made, frames, strict=True)]
        self._check(engine, made, stored, result)
        return list(stored)

    def _check_family(self) -> None:
        plugin = self.plugin
        if plugin.has_own_inputs:
            raise MediaProcessorError(f"the get_mm_inputs of {type(plugin).__name__} takes originals")
        if plugin.sizes_depend_on_batch:
            raise MediaProcessorError("it resizes an item otherwise in other batches")

    def _check(
        self, engine: Engine, made: Sequence[MediaInput], stored: Sequence[StoredItem], result: tuple[object, object]
    ) -> None:
        """Has the processor process what is stored, and compares that with what it made of the originals."""
        read = [[read_pictures(file, MediaOptions()) for file in item.frames] for item in stored]
        again = [
            replace(item, data=as_processor_input(pictures, cast("torch.Tensor", item.data).shape))
            for item, pictures in zip(made, read, strict=True)
        ]
        outputs, expansions = self.plugin.process_media(engine, [again])
        if expansions != result[1] or (self.quality is None and not same(outputs, result[0])):
            raise MediaProcessorError("it makes something else of what is stored than of the originals")


def _smallest(made: MediaInput, recorder: ResizeRecorder) -> list[Pictures]:
    """What an item was resized to, or the item itself, whichever is fewer pixels."""
    pixels = cast("torch.Tensor", made.data)
    whole = [pixels] if pixels.ndim == 3 else list(pixels)
    if len(recorder.results) < len(whole):
        raise MediaProcessorError("it does not resize all of it")
    results = [recorder.results[number] for number in range(len(whole))]
    size = sum(picture.numel() for pictures in results for picture in pictures.values())
    return results if size < pixels.numel() else [{WHOLE: frame} for frame in whole]


def _resized_before(made: MediaInput, plan: MediaPlan) -> list[Pictures] | None:
    """The frames of an item whose size the plugin's options have changed before the processor gets it, else `None`."""
    pixels = cast("torch.Tensor", made.data)
    if tuple(pixels.shape[-2:]) == (plan.height, plan.width):
        return None
    return [{WHOLE: pixels}] if pixels.ndim == 3 else [{WHOLE: frame} for frame in pixels]


def same(first: object, second: object) -> bool:
    """Whether a processor's outputs are equal, bit for bit."""
    mine, yours = tree_leaves(first), tree_leaves(second)
    return len(mine) == len(yours) and all(map(_equal, mine, yours))


def _equal(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(np.asarray(first), np.asarray(second))
    return bool(first == second)


def materialise_batch(
    materialiser: Materialiser, batch: Batch, indices: Sequence[int] | None = None
) -> pa.Table | dict[str, list[object]]:
    """Materialises the media of a batch of mapped rows; see `mmdatasets.plugins.materialising`."""
    reader, plugin = BatchReader(batch), materialiser.plugin
    rows = media_rows(reader)
    errors = RowErrors(row_names(indices, len(rows)), plugin.on_error)
    made, total = [], 0
    for position, row in enumerate(rows):
        with errors.row(position):
            made.append(materialiser.materialise(row))
            total += num_bytes(made[-1])
            check_size(total, len(rows))
    report_rows(plugin, reader, errors, [], tally=plugin.bad_materialised)
    if errors.found:
        reader = reader.select(errors.kept)
    return write_rows(reader, made, may_lack_rows=plugin.on_error != "raise")
