from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mmdatasets.media.identity import identity

PICTURE = PIL.Image.new("RGB", (2, 2))
ARRAY = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.jpg", "".join(["a", ".jpg"])),
        (Path("a.jpg"), "a.jpg"),
        (b"data", bytes(bytearray(b"data"))),
        ({"path": "a.jpg", "bytes": None}, {"bytes": None, "path": "a.jpg"}),
        ({"path": "a.mp4", "start": 1.0}, {"path": "a.mp4", "start": 1.0, "end": None}),
        (["a.jpg", {"bytes": b"x", "path": None}], ["a.jpg", {"bytes": b"x"}]),
        (PICTURE, PICTURE),
        ({"array": ARRAY, "sampling_rate": 8000}, {"array": ARRAY, "sampling_rate": 8000}),
    ],
)
def test_the_same(one, other) -> None:
    assert identity(one) == identity(other)
    assert hash(identity(one)) == hash(identity(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.jpg", "b.jpg"),
        ("a", b"a"),
        ({"path": "a.mp4", "start": 1.0}, {"path": "a.mp4", "start": 2.0}),
        ({"path": "a.mp4", "start": 1.0}, {"path": "a.mp4", "end": 1.0}),
        ({"path": "a", "bytes": b"x"}, {"path": "a", "bytes": b"y"}),
        (["a.jpg", "b.jpg"], ["b.jpg", "a.jpg"]),
        (PICTURE, PICTURE.copy()),
        (ARRAY, ARRAY.copy()),
        (io.BytesIO(b"x"), io.BytesIO(b"x")),
    ],
)
def test_others(one, other) -> None:
    assert identity(one) != identity(other)
