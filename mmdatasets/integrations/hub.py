"""Mapped datasets on a hub and back: the collator from what the dataset says of itself, and a card for its readers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from huggingface_hub import CardData

from mmdatasets._version import __version__
from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import CHOSEN_IDS, LABEL, LENGTH, MADE_BY, MEDIA_COLUMNS, MEDIA_INFO, SEQUENCE_LENGTHS
from mmdatasets.options import MediaOptions
from mmdatasets.plugins.record import PluginRecord
from mmdatasets.plugins.registry import get_mm_plugin
from mmdatasets.shards.embed import embed_media

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.collate.collator import MultimodalCollator
    from mmdatasets.collate.packed import PackedCollator
    from mmdatasets.collate.preference import PreferenceCollator
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import Modality

AnyDataset: TypeAlias = "Dataset | IterableDataset | DatasetDict | IterableDatasetDict"

_logger = logging.getLogger(__name__)

_Rows = TypeVar("_Rows", Dataset, DatasetDict)

_BATCH = 10_000
_EMBED_BATCH = 32  # rows in memory with all their media
_BEGIN, _END = "<!-- mmdatasets: begin -->", "<!-- mmdatasets: end -->"
_TAG = "mmdatasets"
_DEFAULT_CONFIG = "default"


def read_record(dataset: AnyDataset) -> PluginRecord:
    """What a mapped dataset says of the plugin that made it.

    Args:
        dataset: The dataset, or several splits of it.

    Raises:
        MMDatasetsError: If it says nothing, or its splits do not say the same.
    """
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        records = {name: read_record(split) for name, split in dataset.items()}
        if not records:
            raise MMDatasetsError("the dataset has no splits")
        first = next(iter(records.values()))
        if any(record != first for record in records.values()):
            said = "; ".join(f"{name}: {record.label}" for name, record in records.items())
            raise MMDatasetsError(f"the splits were made by different plugins: {said}")
        return first
    features: Features | None = dataset.features
    feature = (features or {}).get(MADE_BY)
    if not isinstance(feature, ClassLabel) or not feature.id:
        columns = "its columns are unknown" if features is None else f"its columns are {', '.join(features)}"
        raise MMDatasetsError(
            f"the dataset does not say what made it: no column {MADE_BY!r} with its type ({columns}). Map it with "
            "plugin.transform; a streaming dataset with features=plugin.features(dataset.features), too"
        )
    return PluginRecord.from_json(feature.id)


def load_plugin(
    dataset: AnyDataset, processor: ProcessorMixin | PreTrainedTokenizerBase | None = None, **fields: object
) -> BasePlugin:
    """Makes the plugin that a mapped dataset was made by, from what the dataset says of itself.

    Args:
        dataset: The mapped dataset.
        processor: The model's processor. Loaded from the hub by its recorded name when `None`; code of the model's
            repository is never run for it.
        **fields: Fields of the plugin, or of `MediaOptions`, in the place of the recorded ones. A dataset never brings
            along `media_root` or `allow_http`: where it refers to media by relative paths or by `http(s)`, give them.

    Raises:
        MMDatasetsError: If the dataset does not say what made it, the processor is another one (says what differs), or
            the family is not registered.
    """
    record = read_record(dataset)
    if processor is None:
        processor = _load_processor(record)
    names = {item.name for item in dataclasses.fields(MediaOptions)}
    missing = set(record.unrecorded) - set(fields)
    if missing:
        raise MMDatasetsError(
            f"the plugin had settings that no text can hold: pass {', '.join(sorted(missing))} to load_plugin"
        )
    given = {name: value for name, value in fields.items() if name not in names}
    own = {name: value for name, value in fields.items() if name in names}
    options = MediaOptions(**{**record.options, **own})  # type: ignore[arg-type]
    settings = {**record.plugin_fields(), "options": options, **given}
    plugin = get_mm_plugin(record.family, processor=processor, **settings)  # type: ignore[arg-type]
    if plugin.snapshot is not None:
        record.check_processor(plugin.snapshot)
    return plugin


def load_collator(
    dataset: AnyDataset,
    processor: ProcessorMixin | PreTrainedTokenizerBase | None = None,
    *,
    fields: Mapping[str, object] | None = None,
    **settings: Any,  # noqa: ANN401 - of three collators
) -> MultimodalCollator | PackedCollator | PreferenceCollator:
    """Makes the collator for a mapped dataset, from what the dataset says of itself.

    Args:
        dataset: The mapped dataset: of chats, packed, or of preferences.
        processor: See `load_plugin`.
        fields: See `load_plugin`: `{"media_root": ...}`, say.
        **settings: Arguments of `plugin.collator`; for a packed dataset of `plugin.packed_collator`, among them the
            model's `config`; for preference data of `plugin.preference_collator`.

    Raises:
        MMDatasetsError: As `load_plugin` does.
    """
    plugin = load_plugin(dataset, processor, **(fields or {}))
    one = next(iter(dataset.values())) if isinstance(dataset, DatasetDict | IterableDatasetDict) else dataset
    columns = set(one.features)
    if SEQUENCE_LENGTHS in columns:
        if "config" not in settings:
            raise MMDatasetsError("the dataset is packed: pass config=model.config to load_collator")
        return plugin.packed_collator(**settings)
    if CHOSEN_IDS in columns or LABEL in columns:
        unpaired = {"trainer": "kto"} if LABEL in columns else {}
        return plugin.preference_collator(**{**unpaired, **settings})
    return plugin.collator(**settings)


def push_to_hub(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    *,
    embed_media: bool = True,
    **settings: Any,  # noqa: ANN401 - of datasets' own push_to_hub
) -> CommitInfo:
    """Pushes a mapped dataset, with a card that says what made it.

    Args:
        dataset: The mapped dataset, or several splits.
        repo_id: `"user/name"`.
        embed_media: Whether local media files go along; see `embed_media_files`. Without, rows keep their paths, which
            mean nothing elsewhere.
        **settings: Of `datasets.Dataset.push_to_hub`: `private`, `token`, `revision`, `split`, `max_shard_size`, ...

    Returns:
        The commit of the rows.

    Raises:
        MMDatasetsError: If the dataset does not say what made it, or streams.
    """
    read_record(dataset)
    _check_not_streaming(dataset)
    pushed = embed_media_files(dataset) if embed_media else dataset
    commit: CommitInfo = pushed.push_to_hub(repo_id, embed_external_files=False, **settings)
    _push_card(dataset, repo_id, commit.pr_revision or settings.get("revision"), settings)
    return commit


def embed_media_files(dataset: _Rows, options: MediaOptions | None = None) -> _Rows:
    """Puts media files into the rows that refer to them, in place of their paths.

    `push_to_hub` of `datasets` does this for columns of single files alone: lists of them keep their paths.

    Args:
        dataset: The mapped dataset, or several splits.
        options: Say which references may be opened; the defaults when `None`, which refuse `http(s)`.

    Returns:
        The dataset, which `datasets` keeps in its cache as it does after `map`.

    Raises:
        MediaError: If a file cannot be read. Names row, column and index.
        MMDatasetsError: If the dataset streams.
    """
    _check_not_streaming(dataset)
    if isinstance(dataset, DatasetDict):
        return DatasetDict({name: embed_media_files(split, options) for name, split in dataset.items()})
    embedded: Dataset = dataset.with_format("arrow").map(
        _embed,
        with_indices=True,
        batched=True,
        batch_size=_EMBED_BATCH,
        writer_batch_size=_EMBED_BATCH,
        fn_kwargs={"options": options or MediaOptions()},
        features=dataset.features,
        desc="Embedding media",
    )
    return embedded.with_format(**dataset.format)


def _check_not_streaming(dataset: AnyDataset) -> None:
    if isinstance(dataset, IterableDataset | IterableDatasetDict):
        raise MMDatasetsError(
            "the dataset streams, and what is said of its rows is counted first: load it without streaming=True, or "
            "use its own push_to_hub, which writes no card and embeds no lists of files"
        )


def _embed(table: pa.Table, indices: list[int], options: MediaOptions) -> pa.Table:
    return pa.concat_tables(embed_media(table, indices, options))


def dataset_card(dataset: Dataset | DatasetDict, repo_id: str = "user/name") -> str:
    """The text about a mapped dataset for its card, in Markdown.

    Args:
        dataset: The mapped dataset, or several splits.
        repo_id: The name that it is loaded by.

    Raises:
        MMDatasetsError: If it does not say what made it.
    """
    return _card_text(dataset, repo_id, None, _DEFAULT_CONFIG, CardData(), "")


def _card_text(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    split: str | None,
    config: str,
    data: CardData,
    earlier: str,
) -> str:
    """The text, with what an earlier one says of other splits that are still there and were made alike."""
    facts = _facts(read_record(dataset))
    splits = dataset if isinstance(dataset, DatasetDict) else {split or str(dataset.split or "train"): dataset}
    counts = {_in_config(config, name): count_rows(rows) for name, rows in splits.items()}
    columns = list(next(iter(counts.values())))
    lines = {
        name: f"| {name} | {' | '.join(f'{count[one]:,}' for one in columns)} |" for name, count in counts.items()
    }
    header = f"| split | {' | '.join(columns)} |"
    kept = _lines_of_others(earlier, [*facts, header], data)
    loaded = [repo_id, config] if config != _DEFAULT_CONFIG else [repo_id]
    arguments = ", ".join([*map(json.dumps, loaded), f"split={json.dumps(next(iter(splits)))}"])
    text = [
        _BEGIN,
        "Chats with their media, tokenised: rows that a collator makes training batches of.",
        "",
        "| | |",
        "| --- | --- |",
        *facts,
        f"| Written by | mmdatasets {__version__} |",
        "",
        header,
        f"| --- | {' | '.join('---:' for _ in columns)} |",
        *{**kept, **lines}.values(),
        "",
        "```python",
        "from datasets import load_dataset",
        "from mmdatasets import load_collator",
        "",
        f"dataset = load_dataset({arguments})",
        "collator = load_collator(dataset, processor)",
        "```",
        _END,
    ]
    return "\n".join(text)


def _facts(record: PluginRecord) -> list[str]:
    processor = f"`{record.processor_name or record.processor_class}`"
    if record.processor_name:
        processor += f" ({record.processor_class})"
    facts = {
        "Family": f"`{record.family}`",
        "Processor": processor,
        "Processor digest": f"`{record.processor_digest or 'unknown'}`",
        "Options": _as_code(record.options),
        "Settings": _as_code(record.settings),
        "Schema version": str(record.schema_version),
    }
    return [f"| {name} | {value} |" for name, value in facts.items()]


def _in_config(config: str, split: str) -> str:
    return split if config == _DEFAULT_CONFIG else f"{config}: {split}"


def _lines_of_others(earlier: str, expected: Sequence[str], data: CardData) -> dict[str, str]:
    """The lines of an earlier card on splits that the repository has, if it says the same of what made them."""
    written = earlier.splitlines()
    if not set(expected) <= set(written):
        return {}
    present = {
        _in_config(config["config_name"], files["split"])
        for config in data.get("configs") or []
        for files in config.get("data_files") or []
        if isinstance(files, Mapping)
    }
    begin = written.index(expected[-1]) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), written[begin:])
    named = {line[2:].partition(" | ")[0]: line for line in rows}
    return {name: line for name, line in named.items() if name in present}


def count_rows(dataset: Dataset) -> dict[str, int]:
    """Counts the rows, tokens and media items of a mapped dataset; no media column is read."""
    columns = [name for name in (LENGTH, MEDIA_INFO) if name in dataset.column_names]
    counts = {"rows": len(dataset), "tokens": 0, **dict.fromkeys(MEDIA_COLUMNS.values(), 0)}
    for table in dataset.select_columns(columns).with_format("arrow").iter(_BATCH):
        counts["tokens"] += int(np.sum(table[LENGTH].to_numpy())) if LENGTH in columns else 0
        if MEDIA_INFO in columns:
            for modality, count in _count_items(table[MEDIA_INFO]).items():
                counts[MEDIA_COLUMNS[modality]] += count
    return counts


def _count_items(lists: pa.ChunkedArray) -> Counter[Modality]:
    """How many items of each modality there are: the chunks of one that is divided count once."""
    rows = pa.compute.list_parent_indices(lists).to_pylist()
    records = pa.compute.list_flatten(lists)
    modalities, items = (pa.compute.struct_field(records, name).to_pylist() for name in ("modality", "item"))
    return Counter(modality for _, modality, _ in set(zip(rows, modalities, items, strict=True)))


def _load_processor(record: PluginRecord) -> ProcessorMixin | PreTrainedTokenizerBase:
    if record.processor_name is None:
        raise MMDatasetsError(
            f"the dataset was made with a {record.processor_class} that was not loaded from a hub: pass processor=..."
        )
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(record.processor_name)
    except (OSError, ValueError) as error:
        raise MMDatasetsError(
            f"the processor that made the dataset cannot be loaded ({error}): pass processor=...",
            source=record.processor_name,
        ) from error


def _as_code(values: Mapping[str, object]) -> str:
    shown = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(values.items()))
    return f"`{shown}`".replace("|", "\\|").replace("\n", " ") if shown else "the defaults"


def _push_card(
    dataset: Dataset | DatasetDict, repo_id: str, revision: str | None, settings: Mapping[str, Any]
) -> None:
    """Writes the text into the card that `datasets` pushed, in the place of an earlier one."""
    from huggingface_hub import DatasetCard, hf_hub_download

    token = settings.get("token")
    path = hf_hub_download(repo_id, "README.md", repo_type="dataset", token=token, revision=revision)
    card = DatasetCard(Path(path).read_text("utf-8"))
    before, _, rest = card.text.partition(_BEGIN)
    earlier, _, after = rest.partition(_END)
    config = settings.get("config_name", _DEFAULT_CONFIG)
    text = _card_text(dataset, repo_id, settings.get("split"), config, card.data, earlier)
    card.text = "\n\n".join(part for part in [before.strip(), text, after.strip()] if part) + "\n"
    card.data["tags"] = sorted({*(card.data.get("tags") or []), _TAG})
    card.push_to_hub(
        repo_id, token=token, repo_type="dataset", commit_message="Say what made the dataset", revision=revision
    )
    _logger.info("pushed %s with a card", repo_id)
