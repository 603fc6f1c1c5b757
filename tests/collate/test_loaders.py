"""The collator in the workers of a `DataLoader`."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from mmdatasets.collate.batch import Batch


def same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(
    ("context", "persistent"),
    [
        ("fork", False),
        ("fork", True),
        *(pytest.param(how, True, marks=pytest.mark.slow) for how in ("spawn", "forkserver")),
    ],
)
def test_workers(context, persistent, qwen_plugin, qwen_rows) -> None:
    collator = qwen_plugin.collator(dtype=torch.bfloat16)
    expected = [collator([qwen_rows[i] for i in range(start, start + 3)]) for start in (0, 3)]
    loader = DataLoader(
        qwen_rows.select(range(6)),
        batch_size=3,
        num_workers=2,
        collate_fn=collator,
        multiprocessing_context=context,
        persistent_workers=persistent,
        timeout=120,
    )
    for _ in range(2):  # epochs
        batches = list(loader)
        assert len(batches) == 2
        for batch, wanted in zip(batches, expected, strict=True):
            assert type(batch) is Batch
            same(batch, wanted)


def test_an_error_in_a_worker_names_the_row(qwen_plugin, qwen_rows) -> None:
    broken = [dict(row) for row in qwen_rows]
    broken[1]["images"] = [{"bytes": b"no image", "path": "gone.jpg"}]
    loader = DataLoader(broken, batch_size=4, num_workers=1, collate_fn=qwen_plugin.collator(), timeout=120)
    with pytest.raises(ValueError, match="row 1 of the batch, column 'images', index 0"):
        list(loader)
