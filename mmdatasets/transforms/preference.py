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
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.batches import (
    Batch,
    BatchReader,
    OwnColumns,
    StoredColumns,
    row_names,
    store_media,
    write_columns,
)
from mmdatasets.transforms.columns import check_columns
from mmdatasets.transforms.fit import TOO_LONG, Fitted, report_fitted, too_long
from mmdatasets.transforms.tokenise import IGNORE_INDEX, TokenisedRow, tokenise_each
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
    errors = RowErrors(row_names(indices, len(rows)), plugin.on_error)
    plugin.engine.template  # noqa: B018 - that there is none is no row's fault
    conversations: list[list[Conversation]] = [[] for _ in rows]
    stored: list[StoredColumns] = [{} for _ in rows]
    verdicts: list[object] = [None] * len(rows)
    for index, row in enumerate(rows):
        with errors.row(index):
            own = {modality: values[index] for modality, values in media.items()}
            sides, stored[index] = _sides(plugin, layout, row, own, columns)
            verdicts[index] = None if layout.is_paired else layout.verdict_of(row)
            conversations[index] = sides
    fitted = _make(plugin, conversations, errors, layout.is_paired)
    report_fitted(plugin, reader, [None if row is None else row.fitted for row in fitted], errors)
    kept = [(index, row) for index, row in enumerate(fitted) if row is not None and row.fitted.row is not None]
    made = [row.sides for _, row in kept]
    if len(kept) < len(rows):
        reader = reader.select([index for index, _ in kept])
    said: OwnColumns = {} if plugin.max_length is None else {FIT: [row.fitted.record for _, row in kept]}
    result = _paired_columns(made) if layout.is_paired else _unpaired_columns(made, [verdicts[at] for at, _ in kept])
    return write_columns(
        reader,
        {**result, **said},
        [stored[index] for index, _ in kept],
        found.taken,
        found.replaced,
        tokens,
        plugin.made_by,
        may_lack_rows=plugin.on_error != "raise",
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """A row's sides, and what became of the row by the longer one."""

    sides: list[TokenisedRow]
    fitted: Fitted


def _make(
    plugin: BasePlugin, conversations: Sequence[Sequence[Conversation]], errors: RowErrors, is_paired: bool
) -> list[_Made | None]:
    """Tokenises the sides of rows and fits them; `None` for rows that cannot be used."""
    num_sides = len(_SIDES) if is_paired else 1
    flat: list[Conversation | None] = []
    for sides_of_row in conversations:
        flat += sides_of_row or [None] * num_sides
    own = errors.for_parts(num_sides)
    tokenised = tokenise_each(plugin, flat, own)
    errors.take_parts(own, num_sides)
    made: list[_Made | None] = [None] * len(conversations)
    for index in errors.kept:
        sides = [side for side in tokenised[index * num_sides :][:num_sides] if side is not None]
        with errors.row(index):
            _check_sides(sides)
            made[index] = _Made(sides, _fit(plugin, sides, errors.names[index]))
    return made


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


def _fit(plugin: BasePlugin, sides: Sequence[TokenisedRow], name: int | str) -> Fitted:
    """What becomes of a row by its longer side.

    Raises:
        RowTooLongError: If it is too long, and the policy is `"error"`.
    """
    longer = max(sides, key=lambda side: len(side.input_ids))
    if plugin.max_length is None or len(longer.input_ids) <= plugin.max_length:
        return Fitted("kept", longer, longer)
    if plugin.on_overflow == "drop":
        return Fitted("dropped", longer, None, TOO_LONG)
    column = "chosen" if longer is sides[0] and len(sides) > 1 else None
    raise too_long(longer, plugin.max_length, name, column)


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


def _check_sides(sides: Sequence[TokenisedRow]) -> None:
    for side, column in zip(sides, _SIDES, strict=False):
        if not (side.labels != IGNORE_INDEX).any():
            raise ConversationError("of the answer, no token is trained", column=column)
        if [_planned(item) for item in side.media] != [_planned(item) for item in sides[0].media]:
            raise ConversationError(
                "the chat template writes the media of the two sides in another order, or as other tokens"
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


def _unpaired_columns(rows: Sequence[Sequence[TokenisedRow]], verdicts: Sequence[object]) -> OwnColumns:
    return {
        INPUT_IDS: [row.input_ids for (row,) in rows],
        LABELS: [row.labels for (row,) in rows],
        LABEL: verdicts,
        LENGTH: [len(row.input_ids) for (row,) in rows],
        MEDIA_INFO: [row.media for (row,) in rows],
    }
