"""The checks of the conformance suite.

Each raises where a plugin fails it and `NotApplicable` where it says nothing, and returns what it left out, if
anything. A check goes by the rows of a scenario, whatever their media; those about one modality say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mmdatasets.testing.checks import batches, materialised, models, packing, rows, stages
from mmdatasets.testing.conformance import Run
from mmdatasets.testing.oracles import Expected

Check: TypeAlias = Callable[[Run, Expected], str | None]

CHECKS: dict[str, Check] = {
    check.__name__.replace("_", " "): check
    for check in (
        rows.token_ids,
        batches.tensors,
        rows.features_fit,
        rows.string_content,
        rows.header_only,
        rows.labels,
        rows.pickling,
        stages.stages,
        stages.unexpanded,
        stages.media_inputs,
        batches.pixel_budget,
        batches.frame_budget,
        models.model_steps,
        models.logits,
        batches.other_padding,
        models.ensured_media,
        packing.packing,
        materialised.materialised,
    )
}
