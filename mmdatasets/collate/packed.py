"""Makes batches of packed rows: all sequences in one row, each of which the model computes as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, cast

import torch

from mmdatasets.collate.batch import Batch
from mmdatasets.collate.collator import MultimodalCollator, check_lengths, check_return_tensors, token_list
from mmdatasets.collate.guard import PackedGuard
from mmdatasets.collate.isolation import (
    Isolation,
    PackedAttention,
    check_implementation,
    implementation_of,
    layer_rules,
)
from mmdatasets.collate.masks import LayerMasks, LayerRule, additive, block_mask, dense_mask
from mmdatasets.collate.replacing import Places, beginning_of, make_tolerantly
from mmdatasets.collate.rows import RowMedia, check_rows
from mmdatasets.errors import CollateError
from mmdatasets.features import INPUT_IDS, LABELS, LENGTH, MEDIA_INFO, SEQUENCE_LENGTHS
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PretrainedConfig

    from mmdatasets.collate.position_ids import ModelPositions
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import Modality

_MASK = "attention_mask"
_POSITIONS = "position_ids"


@dataclass
class PackedCollator:
    """Collator for packed rows, or for rows that it packs itself.

    All sequences of a batch stand in one row, one behind the other, without padding. That each sees itself alone takes
    more than that: positions begin anew with each (with multimodal rotary embeddings after a first axis that counts
    tokens, without which transformers sees no boundaries), there is no cache (`use_cache=False` is in the batch, as
    with one transformers sees none either), and no padding mask. The first token of a sequence is never a label: it
    would be learnt from the sequence before.

    Attributes:
        collator: Makes the parts, padding on the right, with the model's positions.
        config: The model's configuration.
        isolation: How the model keeps sequences apart.
        attention: What tells the model the boundaries.
        flatten: Whether rows that were not packed are taken as they are, each as a sequence.
        pad_to_multiple_of: Has a last sequence of padding fill the row up to a multiple of this many tokens.
    """

    collator: MultimodalCollator
    config: PretrainedConfig
    isolation: Isolation
    attention: PackedAttention = "varlen"
    flatten: bool = False
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, object]], return_tensors: str | None = None) -> Batch:
        """Makes a batch.

        Args:
            rows: Packed rows, with `sequence_lengths`; with `flatten` also mapped rows.
            return_tensors: `"pt"` or `None`; collators of transformers take it here too.

        Returns:
            What the model's forward takes: `input_ids` and `labels` `(1, length)`, `position_ids` `(1, length)` or
            `(1 + axes, 1, length)`, `use_cache=False`, the processor's media tensors and what else the family needs.
            With `"varlen"` also `cu_seq_lens_q` and `cu_seq_lens_k`, `(sequences + 1,)` `torch.int32`, and
            `max_length_q` and `max_length_k`; else `attention_mask`: `(1, 1, length, length)`, or a `BlockMask`, or a
            mapping of these by kind of layer, where the model has several. (Models whose towers would take the lengths
            for their own get none: FlashAttention then goes by the positions.)

        Raises:
            MediaError: If a media item cannot be decoded. Names row, index and source.
            CollateError: If rows were not packed, lack their media, or do not fit it.
            ValueError: If other than torch tensors are asked for.
        """
        check_return_tensors(return_tensors or "pt")
        check_rows(rows)
        found = [(index, piece) for index, row in enumerate(rows) for piece in self._pieces(row, index)]
        pieces, parts = [piece for _, piece in found], self.collator
        if parts.policy == "raise":
            return self._make(pieces, [piece.media for piece in pieces])
        errors = RowErrors([f"{index} of the batch" for index, _ in found], parts.policy)
        places = Places(
            [rows[index] for index, _ in found], [piece.media for piece in pieces], [[piece.ids] for piece in pieces]
        )
        return make_tolerantly(parts.plugin, places, errors, parts.bad_rows, lambda loaded: self._make(pieces, loaded))

    def _make(self, given: Sequence[_Sequence], loaded: Sequence[RowMedia | None]) -> Batch:
        """The batch of sequences, the beginnings of those whose media is `None`."""
        pieces, lost = self._usable(given, loaded)
        if self.collator.ensure_media or lost:
            pieces.insert(0, _Sequence([], None if pieces[0].labels is None else [], RowMedia()))
        sequences = {INPUT_IDS: [piece.ids for piece in pieces]}
        sequences[_MASK] = [[1] * len(piece.ids) for piece in pieces]
        if any(piece.labels is not None for piece in pieces):
            sequences[LABELS] = [piece.labels or [IGNORE_INDEX] * len(piece.ids) for piece in pieces]
        # Blank media goes into the first sequence, which is empty so far: nothing sees it, so that nothing is masked.
        media = self.collator.fill_towers([piece.media for piece in pieces], sequences, lost=lost)
        sequences[_MASK] = [[1] * len(ids) for ids in sequences[INPUT_IDS]]
        if not sequences[INPUT_IDS][0]:
            sequences, media = {name: lists[1:] for name, lists in sequences.items()}, media[1:]
        batch = self.collator.complete(self.collator.pad(sequences), media)
        return Batch(self._flattened(batch, [len(ids) for ids in sequences[INPUT_IDS]]))

    def _usable(
        self, pieces: Sequence[_Sequence], loaded: Sequence[RowMedia | None]
    ) -> tuple[list[_Sequence], frozenset[Modality]]:
        """The sequences of a batch, and the modalities of those that the policy replaced."""
        engine = self.collator.plugin.engine
        bad = [piece for piece, media in zip(pieces, loaded, strict=True) if media is None]
        usable = [
            _beginning(engine, piece) if media is None else replace(piece, media=media)
            for piece, media in zip(pieces, loaded, strict=True)
        ]
        first = usable[0]
        if first.labels is not None and len(bad) == len(pieces):
            first.labels[-1] = first.ids[-1]
        return usable, frozenset(item.modality for piece in bad for item in piece.media.items)

    def _pieces(self, row: Mapping[str, object], index: int) -> Iterator[_Sequence]:
        """The sequences that a row is made of, each with its media."""
        ids = token_list(row, INPUT_IDS, index)
        labels = None if row.get(LABELS) is None else token_list(row, LABELS, index)
        if labels is not None:
            check_lengths([ids], [labels])
        media = self.collator.media_of_row(row, index)
        if row.get(SEQUENCE_LENGTHS) is None:
            self._check_flat(row, index)
            yield _Sequence(ids, labels, media)
            return
        bounds = list(accumulate(token_list(row, SEQUENCE_LENGTHS, index), initial=0))
        if bounds[-1] != len(ids):
            raise CollateError(
                f"{SEQUENCE_LENGTHS} add up to {bounds[-1]}, but it has {len(ids)} input_ids: do not cut packed rows",
                row=f"{index} of the batch",
            )
        starts = _starts_of(row, media, index)
        for start, end in pairwise(bounds):
            mine = [place for place, at in enumerate(starts) if start <= at < end]
            yield _Sequence(ids[start:end], None if labels is None else labels[start:end], _selected(media, mine))

    def _check_flat(self, row: Mapping[str, object], index: int) -> None:
        """A row without `sequence_lengths` must be one that was not packed, not one that lost its columns."""
        keep = "have the trainer keep its columns (plugin.training_args_kwargs() sets remove_unused_columns=False)"
        if not self.flatten:
            raise CollateError(
                f"no {SEQUENCE_LENGTHS!r} among its columns ({', '.join(row)}): pack the dataset first "
                f"(plugin.packer) and {keep}, or, of rows that were never packed, pass flatten=True",
                row=f"{index} of the batch",
            )
        if row.get(LENGTH) is None:
            raise CollateError(
                f"neither {SEQUENCE_LENGTHS!r} nor {LENGTH!r} among its columns ({', '.join(row)}), so that it cannot "
                f"be told from a packed row that lost its boundaries: {keep}",
                row=f"{index} of the batch",
            )

    # ----------------------------------------------------------------------------------------- the flattened row

    def _flattened(self, batch: dict[str, torch.Tensor], lengths: list[int]) -> dict[str, object]:
        real = batch.pop(_MASK).bool()
        plugin = self.collator.plugin
        per_token = {INPUT_IDS, LABELS, *plugin.sequence_inputs(plugin.engine, batch[INPUT_IDS][:1].tolist())}
        flat: dict[str, object] = {
            name: value[real][None] if name in per_token else value
            for name, value in batch.items()
            if name != _POSITIONS
        }
        flat[_POSITIONS] = _positions(batch[_POSITIONS], real, lengths)
        if LABELS in flat:
            starts = torch.tensor(list(accumulate(lengths[:-1], initial=0)))
            flat[LABELS][0, starts] = IGNORE_INDEX  # type: ignore[index]
        if missing := -sum(lengths) % (self.pad_to_multiple_of or 1):
            self._fill(flat, missing, per_token)
            lengths = [*lengths, missing]
        return {**flat, **self._boundaries(flat, lengths), "use_cache": False}

    def _fill(self, flat: dict[str, object], missing: int, per_token: set[str]) -> None:
        """Adds a sequence of padding, which has positions of its own, as every sequence."""
        values = {INPUT_IDS: self.collator.plugin.engine.tokenizer.pad_token_id, LABELS: IGNORE_INDEX}
        for name in per_token & set(flat):
            flat[name] = torch.nn.functional.pad(flat[name], (0, missing), value=values.get(name, 0))  # type: ignore[arg-type]
        positions = cast("torch.Tensor", flat[_POSITIONS])
        more = torch.arange(missing, dtype=positions.dtype).expand(*positions.shape[:-1], missing)
        flat[_POSITIONS] = torch.cat([positions, more], dim=-1)

    def _boundaries(self, flat: Mapping[str, object], lengths: list[int]) -> dict[str, object]:
        """What tells the model where sequences end."""
        if self.attention == "varlen":
            if not self.isolation.takes_lengths:
                return {}
            ends = torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32)
            longest = max(lengths)
            return {
                "cu_seq_lens_q": ends,
                "cu_seq_lens_k": ends,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        blocks = None
        if self.isolation.find_blocks is not None:
            sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            blocks = self.isolation.find_blocks(cast("Mapping[str, torch.Tensor]", flat), sequence)
        make = block_mask if self.attention == "flex" else self._dense
        masks = {kind: make(lengths, blocks, rule) for kind, rule in layer_rules(self.config, self.isolation).items()}
        return {_MASK: LayerMasks(masks) if len(masks) > 1 else next(iter(masks.values()))}

    def _dense(self, lengths: Sequence[int], blocks: torch.Tensor | None, rule: LayerRule) -> torch.Tensor:
        mask = dense_mask(lengths, blocks, rule)
        return additive(mask) if implementation_of(self.config) == "eager" else mask

    # ------------------------------------------------------------------------------------------------ the model

    def check_model(self, model: torch.nn.Module) -> None:
        """Checks that a model takes the batches as they are meant: call it once, before training.

        Args:
            model: The model, as it is trained.

        Raises:
            CollateError: If its kind of attention ignores or misreads the boundaries, it is another model than the
                collator was made for, or `torch.nn.DataParallel` would cut the row.
        """
        if isinstance(model, torch.nn.DataParallel):
            raise CollateError(
                "torch.nn.DataParallel divides batches by rows, and a packed batch is one row: run one process for "
                "each device (torchrun), or make one device visible"
            )
        config = getattr(getattr(model, "module", model), "config", None)
        kind = getattr(getattr(config, "thinker_config", config), "model_type", None)
        own = getattr(self.config, "thinker_config", self.config).model_type
        if config is None or kind != own:
            raise CollateError(f"the collator was made for a model of type {own!r}, not {kind!r}: pass its config")
        check_implementation(config, self.attention)
        if implementation_of(config) != implementation_of(self.config):
            raise CollateError(
                f"the model runs {implementation_of(config)!r} attention, the collator was made for "
                f"{implementation_of(self.config)!r}: pass config=model.config once the model is as it is trained"
            )

    def guard(self, model: torch.nn.Module) -> RemovableHandle:
        """Has a model refuse, in training mode, what would let packed sequences see one another.

        Between the collator and the model a trainer may add a padding mask, drop or cut `position_ids`, or turn the
        cache on, and the loss would hardly tell. From here on the model is trained on batches of this collator alone.

        Args:
            model: The model, as it is trained; before it is wrapped, or after.

        Returns:
            What ends it: `handle.remove()`.

        Raises:
            CollateError: What `check_model` raises. The model's forward raises it at a batch that was changed.
        """
        self.check_model(model)
        positions = cast("ModelPositions", self.collator.positions)
        inner = getattr(model, "module", model)
        guard = PackedGuard(self.attention, 1 + positions.num_axes if positions.num_axes > 1 else 1)
        return inner.register_forward_pre_hook(guard, with_kwargs=True)

    def verify(self, model: torch.nn.Module, rows: Sequence[Mapping[str, object]], tolerance: float = 1e-3) -> float:
        """Has a model compute a packed batch, and each of its sequences by itself, and compares the logits.

        In evaluation mode, where dropout would make them differ anyway. In half precision the tolerance must be wider.

        Args:
            model: The model.
            rows: Rows, as for a batch; several sequences in all, of which some should have media.
            tolerance: How far logits may be off, as a part of the largest.

        Returns:
            How far they are off, as a part of the largest.

        Raises:
            CollateError: If they are off by more. Says in which sequence.
        """
        self.check_model(model)
        pieces = [piece for index, row in enumerate(rows) for piece in self._pieces(row, index)]
        plain = replace(self.collator, positions=None, ensure_media=False)
        wide = replace(self, pad_to_multiple_of=None, collator=replace(self.collator, ensure_media=False))
        training = model.training
        try:
            together = _logits(model.eval(), wide(rows))
            worst, start = 0.0, 0
            for number, piece in enumerate(pieces):
                sequences = {INPUT_IDS: [piece.ids], _MASK: [[1] * len(piece.ids)]}
                alone = _logits(model, Batch(plain.complete(plain.pad(sequences), [piece.media])))
                off = (together[start : start + len(piece.ids)] - alone).abs().max() / alone.abs().max()
                worst, start = max(worst, off.item()), start + len(piece.ids)
                if not off <= tolerance:
                    raise CollateError(
                        f"sequence {number} of the packed batch has logits that are off by {off.item():.1e} of the "
                        f"largest from what it has by itself, more than {tolerance:.1e}: the model does not keep "
                        f"sequences apart by attention={self.attention!r}"
                    )
        finally:
            model.train(training)
        return worst


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A sequence of a batch, with its media."""

    ids: list[int]
    labels: list[int] | None
    media: RowMedia


def _beginning(engine: Engine, piece: _Sequence) -> _Sequence:
    """What stands in for a sequence whose media cannot be decoded; see `mmdatasets.collate.replacing`."""
    ids = beginning_of(engine, piece.ids)
    return _Sequence(ids, None if piece.labels is None else [IGNORE_INDEX] * len(ids), RowMedia())


def _logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """`(length, vocabulary)` logits of a batch of one row, in float32."""
    weights = next(model.parameters())
    with torch.no_grad():
        inputs = {name: value for name, value in batch.to(weights.device, weights.dtype).items() if name != LABELS}
        logits: torch.Tensor = model(**inputs).logits
    return logits[0].float()


def _positions(positions: torch.Tensor, real: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """`(1, length)`, or `(1 + axes, 1, length)`: the first of which counts tokens, by which boundaries are told."""
    if positions.ndim == 2:
        return positions[real][None]
    counted = torch.cat([torch.arange(length) for length in lengths])[None].to(positions.dtype)
    return torch.cat([counted, positions[:, real]])[:, None]


def _starts_of(row: Mapping[str, object], media: RowMedia, index: int) -> list[int]:
    """Where in the row each item's span begins."""
    if not media.items:
        return []
    if media.num_tokens is None:
        raise CollateError(
            f"{MEDIA_INFO} does not describe its media, so that it cannot be told which sequence has which: keep the "
            "column, as plugin.packer made it",
            row=f"{index} of the batch",
        )
    return [int(record["start"]) for record in row[MEDIA_INFO]]  # type: ignore[attr-defined]


def _selected(media: RowMedia, places: Sequence[int]) -> RowMedia:
    if not places or media.num_tokens is None:
        return RowMedia()
    counts = media.num_tokens
    return RowMedia(
        [media.items[place] for place in places],
        [media.plans[place] for place in places],
        [counts[place] for place in places],
        max_pixels=[media.max_pixels[place] for place in places] if media.max_pixels else (),
    )
