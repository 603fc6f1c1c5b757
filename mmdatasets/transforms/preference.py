"""From preference data to token ids: the sides of a row share its media, whose headers are read once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import Features

from mmdatasets.chat.formats import Conversation
from mmdatasets.chat.layouts import TOOLS, read_tools
from mmdatasets.chat.preferences import CHOSEN, REJECTED, PreferenceLayout, find_preferences
from mmdatasets.errors import ConversationError, MMDatasetsError
from mmdatasets.features import (
    CHOSEN_IDS,
    CHOSEN_LABELS,
    FIT,
    INPUT_IDS,
    LABEL,
    LABELS,
    LENGTH,
    MEDIA_INFO,
    REJECTED_IDS,
    REJECTED_LABELS,
    preference_token_features,
    tokenised_features,
)
from mmdatasets.transforms.batches import (
    Batch,
    BatchReader,
    OwnColumns,
    StoredColumns,
    check_columns,
    row_names,
    store_media,
    write_columns,
)
from mmdatasets.transforms.fit import TOO_LONG, Fitted, report_rows, too_long
from mmdatasets.transforms.tokenise import IGNORE_INDEX, TokenisedRow, tokenise_rows
from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    import pyarrow as pa

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import MediaReference

_SIDES = (CHOSEN, REJECTED)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What is taken of a dataset.

    Attributes:
        layout: Where its chats are.
        taken: The column of each modality that the result has.
        replaced: The columns that are not in the result.
    """

    layout: PreferenceLayout
    taken: Mapping[Modality, str]
    replaced: Sequence[str]


def preference_features(plugin: BasePlugin, source: Features | None) -> Features:
    """The types of what `transform_preferences` returns; see `BasePlugin.preference_features`."""
    fitted = _fits(plugin)
    if source is None:
        taken: Collection[Modality] = _result_modalities(plugin)
        tokens = preference_token_features(paired=True)
        return tokenised_features(taken, tokens=tokens, fitted=fitted, made_by=plugin.made_by)
    found = _columns_of(plugin, list(source))
    tokens = preference_token_features(paired=found.layout.is_paired)
    return tokenised_features(found.taken, source, found.replaced, tokens, fitted=fitted, made_by=plugin.made_by)


def transform_preferences(
    plugin: BasePlugin, batch: Batch, indices: Sequence[int] | None
) -> pa.Table | dict[str, list[object]]:
    """Tokenises a batch of preference data; see `BasePlugin.preference_transform`."""
    if plugin.train_on == "all":
        raise ConversationError(
            "train_on='all', but preferences are about answers: leave train_on out for preference data"
        )
    reader = BatchReader(batch)
    found = _columns_of(plugin, reader.column_names)
    layout, tokens = found.layout, preference_token_features(paired=found.layout.is_paired)
    check_columns(reader, found.replaced, found.taken, tokens, fitted=_fits(plugin))
    rows = reader.rows(layout.consumed(reader.column_names))
    columns = plugin.columns_among(reader.column_names)
    media = {modality: reader.media(column, modality, len(rows)) for modality, column in columns.items()}
    names = row_names(indices, len(rows))
    conversations: list[Conversation] = []
    stored: list[StoredColumns] = []
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        try:
            own = {modality: values[index] for modality, values in media.items()}
            sides, references = _sides(plugin, layout, row, own, columns)
        except MMDatasetsError as error:
            raise error.at(row=name) from error.__cause__
        conversations += sides
        stored.append(references)
    num_sides = len(_SIDES) if layout.is_paired else 1
    tokenised = tokenise_rows(plugin, conversations, [name for name in names for _ in range(num_sides)])
    made = [tokenised[start : start + num_sides] for start in range(0, len(tokenised), num_sides)]
    for sides_of_row, name in zip(made, names, strict=True):
        _check_sides(sides_of_row, name)
    said: OwnColumns = {}
    if plugin.max_length is not None:
        fitted = [_fit(plugin, sides, name, plugin.max_length) for sides, name in zip(made, names, strict=True)]
        report_rows(plugin, fitted, names)
        kept = [index for index, one in enumerate(fitted) if one.row is not None]
        made, stored = [made[index] for index in kept], [stored[index] for index in kept]
        rows, names = [rows[index] for index in kept], [names[index] for index in kept]
        reader, said = reader.select(kept), {FIT: [fitted[index].record for index in kept]}
    result = _paired_columns(made) if layout.is_paired else _unpaired_columns(made, layout, rows, names)
    return write_columns(reader, {**result, **said}, stored, found.taken, found.replaced, tokens, plugin.made_by)


def _fits(plugin: BasePlugin) -> bool:
    """Whether rows are fitted into a length.

    Raises:
        MMDatasetsError: If by a policy that is not for preference data.
    """
    if plugin.max_length is not None and plugin.on_overflow not in ("error", "drop"):
        raise MMDatasetsError(
            f"on_overflow={plugin.on_overflow!r} is not for preference data, whose answers must go on from the same "
            "prompt and media: use 'error' or 'drop'"
        )
    return plugin.max_length is not None


def _fit(plugin: BasePlugin, sides: Sequence[TokenisedRow], name: int | str, max_length: int) -> Fitted:
    """What becomes of a row by its longer side.

    Raises:
        RowTooLongError: If it is too long, and the policy is `"error"`.
    """
    longer = max(sides, key=lambda side: len(side.input_ids))
    if len(longer.input_ids) <= max_length:
        return Fitted("kept", longer, longer)
    if plugin.on_overflow == "drop":
        return Fitted("dropped", longer, None, TOO_LONG)
    raise too_long(longer, max_length, name, "chosen" if longer is sides[0] and len(sides) > 1 else None)


def _columns_of(plugin: BasePlugin, names: Sequence[str]) -> _Columns:
    layout = find_preferences(names, plugin.layout, plugin.messages_column)
    columns = plugin.columns_among(names)
    taken = {modality: columns[modality] for modality in _result_modalities(plugin)}
    return _Columns(layout, taken, (*layout.consumed(names), *taken.values()))


def _result_modalities(plugin: BasePlugin) -> tuple[Modality, ...]:
    """What the model takes, and images in any case: TRL's trainers leave a dataset with such a column as it is."""
    own = plugin.modalities
    return tuple(modality for modality in MODALITIES if modality in own or (own and modality == "image"))


def _sides(
    plugin: BasePlugin,
    layout: PreferenceLayout,
    row: Mapping[str, object],
    media: Mapping[Modality, Sequence[MediaReference] | None],
    columns: Mapping[Modality, str],
) -> tuple[list[Conversation], StoredColumns]:
    """A row's conversations, with one set of media, which is planned here once."""
    engine = plugin.engine
    tools = read_tools(row.get(TOOLS))
    sides = [
        plugin.normalise(messages, media) for messages in layout.conversations(row, calls=engine.template.call_form)
    ]
    first = sides[0]
    stored = store_media(first.media, columns, plugin.options.media_root)
    for other in sides[1:]:
        same = len(first.media) == len(other.media) and all(
            mine.reference is theirs.reference for mine, theirs in zip(first.media, other.media, strict=True)
        )
        if not same and stored != store_media(other.media, columns, plugin.options.media_root):
            raise ConversationError(
                f"the chosen side has {_counted(first)}, the rejected one {_counted(other)}; both must have the same "
                "media: it belongs to the prompt",
                column=REJECTED,
            )
    plans = engine.media.plan(first.media)
    for side in sides:
        side.media, side.plans, side.tools = first.media, plans, tools
    return sides, stored


def _counted(conversation: Conversation) -> str:
    counts = {modality: len(conversation.references(modality)) for modality in MODALITIES}
    return ", ".join(f"{count} {modality}(s)" for modality, count in counts.items() if count) or "no media"


def _check_sides(sides: Sequence[TokenisedRow], row: int | str) -> None:
    for side, column in zip(sides, _SIDES, strict=False):
        if not (side.labels != IGNORE_INDEX).any():
            raise ConversationError("of the answer, no token is trained", row=row, column=column)
        if [_planned(item) for item in side.media] != [_planned(item) for item in sides[0].media]:
            raise ConversationError(
                "the chat template writes the media of the two sides in another order, or as other tokens", row=row
            )


def _planned(item: Mapping[str, object]) -> tuple[object, ...]:
    return item["modality"], item["item"], item["num_tokens"]


def _paired_columns(rows: Sequence[Sequence[TokenisedRow]]) -> OwnColumns:
    return {
        CHOSEN_IDS: [chosen.input_ids for chosen, _ in rows],
        CHOSEN_LABELS: [chosen.labels for chosen, _ in rows],
        REJECTED_IDS: [rejected.input_ids for _, rejected in rows],
        REJECTED_LABELS: [rejected.labels for _, rejected in rows],
        LENGTH: [max(len(side.input_ids) for side in sides) for sides in rows],
        MEDIA_INFO: [chosen.media for chosen, _ in rows],
    }


def _unpaired_columns(
    rows: Sequence[Sequence[TokenisedRow]],
    layout: PreferenceLayout,
    sources: Sequence[Mapping[str, object]],
    names: Sequence[int | str],
) -> OwnColumns:
    verdicts = []
    for source, name in zip(sources, names, strict=True):
        try:
            verdicts.append(layout.verdict_of(source))
        except ConversationError as error:
            raise error.at(row=name) from error.__cause__
    return {
        INPUT_IDS: [row.input_ids for (row,) in rows],
        LABELS: [row.labels for (row,) in rows],
        LABEL: verdicts,
        LENGTH: [len(row.input_ids) for (row,) in rows],
        MEDIA_INFO: [row.media for (row,) in rows],
    }
