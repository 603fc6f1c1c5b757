"""A check that media which is decoded once gives the batches of the originals."""

from __future__ import annotations

from itertools import chain
from typing import cast

from mmdatasets.errors import MediaProcessorError
from mmdatasets.features import MEDIA_INFO, MediaRecord
from mmdatasets.testing.conformance import NotApplicable, Run
from mmdatasets.testing.inputs import flat, require_same_inputs
from mmdatasets.testing.oracles import Expected
from mmdatasets.types import MODALITIES

SCENARIOS = ("rows of different counts", "one video", "images and videos, mixed batch", "rows of audio")
"""Where it is checked: what a processor does first with an item does not depend on much else."""

ELSEWHERE = f"materialised in {', '.join(SCENARIOS)}"


_STAY = " stay originals: "


def modalities_that_stay(remark: str) -> list[str]:
    """The modalities that a remark of the check says cannot be materialised."""
    return [one for one in MODALITIES if _STAY in remark and one in remark.partition(_STAY)[0]]


def materialised(run: Run, expected: Expected) -> str | None:
    """Of rows whose media was materialised the batch is the same, bit for bit; what cannot be stays as it is."""
    if run.scenario.name not in SCENARIOS:
        raise NotApplicable(ELSEWHERE)
    columns = {name: [row[name] for row in run.mapped] for name in run.mapped[0]}
    made = run.plugin.materialise(columns, unsupported="keep")
    stored = [{**row, **{name: made[name][index] for name in made}} for index, row in enumerate(run.mapped)]
    batch = run.plugin.collator(padding_side=run.oracle.padding_side)(stored)
    require_same_inputs(flat(batch), flat(run.batch))
    rows = cast("list[list[MediaRecord]]", made[MEDIA_INFO])
    records = list(chain.from_iterable(rows))
    kept = [one for one in MODALITIES if any(it["modality"] == one and not it["materialised"] for it in records)]
    if not kept:
        return None
    try:
        run.plugin.materialise(columns)
    except MediaProcessorError as error:
        reason = error.message.partition(". Pass ")[0].partition(": ")[2]
        return f"{', '.join(f'{one}s' for one in kept)}{_STAY}{reason}"
    raise AssertionError(f"{', '.join(kept)} stay originals without an error that says why")
