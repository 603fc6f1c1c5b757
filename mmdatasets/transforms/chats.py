"""From chats to token ids: the transform of every plugin for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdatasets.chat.formats import Conversation
from mmdatasets.chat.layouts import TOOLS, CallForm, read_tools
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.batches import (
    Batch,
    BatchReader,
    StoredColumns,
    row_names,
    store_media,
    write_batch,
)
from mmdatasets.transforms.columns import check_columns
from mmdatasets.transforms.fit import write_fitted
from mmdatasets.transforms.report import report_rows
from mmdatasets.transforms.tokenise import tokenise_each

if TYPE_CHECKING:
    import pyarrow as pa

    from mmdatasets.plugins.base import BasePlugin


def transform_chats(
    plugin: BasePlugin, batch: Batch, indices: Sequence[int] | None
) -> pa.Table | dict[str, list[object]]:
    """Tokenises a batch of chats; see `BasePlugin.transform`."""
    reader = BatchReader(batch)
    columns = plugin.columns_among(reader.column_names)
    taken = {modality: columns[modality] for modality in plugin.modalities}
    layout = plugin.layout_among(reader.column_names, reader.boolean_columns)
    consumed = layout.consumed(reader.column_names)
    replaced = (*consumed, *taken.values())
    check_columns(reader, replaced, taken, fitted=plugin.max_length is not None)
    chats = reader.rows(consumed)
    media = {modality: reader.media(column, modality, len(chats)) for modality, column in columns.items()}
    errors = RowErrors(row_names(indices, len(chats)), plugin.on_error)
    conversations: list[Conversation | None] = [None] * len(chats)
    stored: list[StoredColumns] = [{} for _ in chats]
    is_plain = layout.name == "text"
    calls: CallForm = "none" if is_plain else plugin.engine.template.call_form
    for index, chat in enumerate(chats):
        with errors.row(index):
            messages = layout.messages(chat, calls=calls)
            conversation = plugin.normalise(messages, {modality: rows[index] for modality, rows in media.items()})
            conversation.tools, conversation.is_plain = read_tools(chat.get(TOOLS)), is_plain
            stored[index] = store_media(conversation.media, columns, plugin.options.media_root)
            conversations[index] = conversation
    if plugin.max_length is not None:
        return write_fitted(plugin, reader, plugin.fit_each(conversations, errors), stored, taken, replaced, errors)
    rows = tokenise_each(plugin, conversations, errors)
    report_rows(plugin, reader, errors, [None if row is None else row.input_ids for row in rows])
    kept = [row for row in rows if row is not None]
    if len(kept) < len(rows):
        reader, stored = reader.select(errors.kept), [stored[index] for index in errors.kept]
    may_lack_rows = plugin.on_error != "raise"
    return write_batch(reader, kept, stored, taken, replaced, plugin.made_by, may_lack_rows=may_lack_rows)
