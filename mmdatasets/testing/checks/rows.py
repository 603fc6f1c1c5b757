"""Checks of the rows that a plugin's transform makes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets.fingerprint import Hasher

from mmdatasets.features import MediaRecord
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import require
from mmdatasets.testing.oracles import Expected
from mmdatasets.testing.scenarios import Row, parts_of, with_media
from mmdatasets.transforms.tokenise import IGNORE_INDEX


def token_ids(run: Run, expected: Expected) -> None:
    """Every row's ids are exactly the oracle's."""
    for index, row in enumerate(run.mapped):
        require(row["input_ids"] == expected.ids(index), f"ids of row {index} differ from the oracle's")


def features_fit(run: Run, expected: Expected) -> None:
    """Each item's planned features are the media tokens of its span, and no media token stands outside of a span.

    (The collator compares the plan with what the processor makes of the decoded items, the models what their towers
    make of these.)
    """
    for row, source in zip(run.mapped, run.rows, strict=True):
        infos: list[MediaRecord] = row["media_info"]  # type: ignore[assignment]
        found = [info["modality"] for info in infos]
        # Some templates write images before videos; media_info has the order of the text.
        require(sorted(found) == sorted(spec.modality for spec in source.media), f"media_info has {found}")
        starts = [info["start"] for info in infos]
        require(starts == sorted(starts), f"media_info is not in the order of the text: {starts}")
        is_media = run.plugin.engine.is_media_token(np.asarray(row["input_ids"]))
        planned = [info["num_tokens"] for info in infos]
        placed = [int(is_media[info["start"] : info["end"]].sum()) for info in infos]
        require(planned == placed and all(placed), f"planned {planned} features, placed {placed} media tokens")
        require(sum(placed) == int(is_media.sum()), "a media token stands outside of the spans")


def string_content(run: Run, expected: Expected) -> None:
    """Strings with a placeholder for each media item give what the processor makes of the parts they stand for."""
    made = run.transform(run.plugin, chats=[row.strings for row in run.rows])
    for index, (row, files) in enumerate(zip(run.rows, run.files, strict=True)):
        chat = with_media(row.mixed, row.references(files))
        ours, typed = made[index], run.mapped[index]
        if run.oracle.render(run, chat) == run.oracle.render(run, run.chats[index]):
            require(ours["input_ids"] == typed["input_ids"], f"ids of row {index} differ from those of typed parts")
            require(ours["labels"] == typed["labels"], f"labels of row {index} differ from those of typed parts")
            continue
        theirs = run.oracle.encode(run, [chat])
        if theirs is None:
            raise NotApplicable("the template renders strings otherwise, and the oracle refuses them")
        require(ours["input_ids"] == theirs["input_ids"][0].tolist(), f"ids of row {index} differ from the oracle's")  # type: ignore[index, union-attr]


def header_only(run: Run, expected: Expected) -> None:
    """Files whose payload is cut off map to the same rows: nothing is decoded."""
    if not run.scenario.modalities:
        raise NotApplicable("no media")
    with TemporaryDirectory() as folder:
        cut = [
            [str(spec.cut(Path(file), Path(folder))) for spec, file in zip(row.media, files, strict=True)]
            for row, files in zip(run.rows, run.files, strict=True)
        ]
        again = run.transform(run.plugin, cut)
    for row, other in zip(run.mapped, again, strict=True):
        require(row["input_ids"] == other["input_ids"], "ids change when the payload is cut off")
        require(row["media_info"] == other["media_info"], "media_info changes when the payload is cut off")


def labels(run: Run, expected: Expected) -> str | None:
    """Labels are the ids of what the assistant writes, each turn's end included, and of nothing else.

    Token for token what transformers' `assistant_masks` say of the chat template with its answers marked.
    """
    remarks = set()
    for index, (row, source) in enumerate(zip(run.mapped, run.rows, strict=True)):
        ids, targets = np.asarray(row["input_ids"]), np.asarray(row["labels"])
        trained = targets != IGNORE_INDEX
        require(np.array_equal(ids[trained], targets[trained]), f"a label of row {index} is not its token")
        require(
            not (trained & run.plugin.engine.is_media_token(ids)).any(), f"a media token of row {index} is trained"
        )
        _require_turns(run, source, ids, trained)
        mask, who = expected.trained(index)
        remarks.add(who)
        if mask is None:
            remarks.add("nobody says which tokens are trained: answers and questions alone were looked for")
        else:
            differing = np.flatnonzero(trained != np.asarray(mask)).tolist()
            require(not differing, f"whether they are trained differs for the tokens {differing[:10]} of row {index}")
    return "; ".join(sorted(remarks - {""})) or None


def _require_turns(run: Run, source: Row, ids: np.ndarray, trained: np.ndarray) -> None:
    """What can be said without knowing the template: answers and their ends are trained, questions are not."""
    tokenizer = run.plugin.engine.tokenizer
    text = tokenizer.decode(ids[trained].tolist())
    for answer in source.answers:
        require(answer in text, f"the answer {answer!r} is not trained")
    for message in source.messages:
        for part in parts_of(message) if message["role"] == "user" else ():
            require(str(part.get("text", "\0")) not in text, f"the question {part.get('text')!r} is trained")
    ends = ids == tokenizer.eos_token_id
    if ends.any():  # some templates end a turn with the next one's beginning
        found = int((ends & trained).sum())
        require(found == len(source.answers), f"{found} ends of {len(source.answers)} answers are trained")


def pickling(run: Run, expected: Expected) -> None:
    """The plugin as another process gets it gives the same rows, and `datasets` the same fingerprint."""
    copy = run.subject.unpickled
    require(run.transform(copy) == run.mapped, "an unpickled plugin gives other rows")
    require(Hasher.hash(copy) == Hasher.hash(run.plugin), "an unpickled plugin has another fingerprint")
