"""Mapped rows of a family with all the media that it takes in one batch, for tests of packing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmdatasets.collate.position_ids import ModelPositions
from mmdatasets.testing.conformance import SCENARIOS, Run, Subject
from mmdatasets.testing.oracles import ProcessorOracle
from mmdatasets.testing.scenarios import Scenario
from mmdatasets.testing.subjects import generic_subjects, named_subjects

SUBJECTS = {one.name: one for one in (*named_subjects(), *generic_subjects()) if one.build_model is not None}
_SCENARIOS = {one.name: one for one in SCENARIOS}
_ONE_KIND = {"glm4v", "glm46v", "smolvlm"}
"""Transformers' models of these take a video's tokens for images' where a batch has both."""
_NO_VIDEOS_TOGETHER = {"llava_onevision", "kimi_k25"}


def packing_run(name: str, folder) -> Run:
    """The rows of a family: text alone, several counts of images and, where it takes them, videos and audio."""
    subject: Subject = SUBJECTS[name]
    kinds = set(subject.modalities)
    rows = list(_SCENARIOS["text only"].rows)
    if "image" in kinds:
        rows = [*_SCENARIOS["rows of different counts"].rows, *rows]
    if "video" in kinds and name not in _ONE_KIND | _NO_VIDEOS_TOGETHER:
        rows = [*rows, *_SCENARIOS["images and videos, mixed batch"].rows]
    if "audio" in kinds and name != "gemma3n":  # whose clips depend on the longest of the batch
        rows = [rows[0], *_SCENARIOS["rows of audio"].rows, *rows[1:]]
    return Run(subject, Scenario("packing", tuple(rows)), folder, ProcessorOracle())


def row_position_ids(positions: ModelPositions, ids: Sequence[int], inputs: Mapping[str, object]) -> torch.Tensor:
    """The position ids of one row by itself, which is what a packed sequence needs of each of its rows.

    Args:
        positions: The model's.
        ids: The row's token ids, without padding.
        inputs: What the model takes beside them, of this row alone: grids, `mm_token_type_ids` `(1, length)`, ...

    Returns:
        `(axes, length)` with multimodal rotary embeddings, else `(length,)`.
    """
    tokens = torch.as_tensor(ids, dtype=torch.int64)[None]
    made = positions({**inputs, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    return made[..., 0, :]
