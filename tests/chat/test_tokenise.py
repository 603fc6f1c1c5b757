"""Which tokens a span of characters is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.chat.tokenise import Encoded


def encoded(*edges: int) -> Encoded:
    """Tokens between neighbouring edges."""
    starts, ends = np.array(edges[:-1], dtype=np.int32), np.array(edges[1:], dtype=np.int32)
    return Encoded(np.zeros(len(starts), dtype=np.int32), starts, ends)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], [0, 0, 0, 0]),
        ([(2, 4)], [0, 1, 0, 0]),
        ([(2, 5)], [0, 1, 0, 0]),  # the token from 4 to 6 runs past the end
        ([(3, 6)], [0, 1, 1, 0]),  # the token from 2 to 4 began before
        ([(0, 2), (6, 8)], [1, 0, 0, 1]),
        ([(2, 5), (5, 6)], [0, 1, 1, 0]),  # adjacent spans are one
        ([(0, 8)], [1, 1, 1, 1]),
    ],
)
def test_tokens_of_spans(spans: list[tuple[int, int]], expected: list[int]) -> None:
    assert encoded(0, 2, 4, 6, 8).written_in(spans).tolist() == [bool(value) for value in expected]


def test_tokens_without_text_belong_to_no_span() -> None:
    tokens = Encoded(np.zeros(3, dtype=np.int32), np.array([0, 0, 4]), np.array([0, 4, 4]))
    assert tokens.written_in([(0, 4)]).tolist() == [False, True, False]
    assert encoded(0).written_in([(0, 4)]).tolist() == []


@given(
    edges=st.lists(st.integers(1, 40), max_size=12).map(lambda found: sorted({0, *found, 41})),
    cuts=st.lists(st.integers(0, 41), max_size=8, unique=True).map(sorted),
)
def test_equals_the_rule_written_out(edges: list[int], cuts: list[int]) -> None:
    spans = [(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=False) if start < end]
    inside = {position for start, end in spans for position in range(start, end)}
    expected = [end - 1 in inside for end in edges[1:]]
    assert encoded(*edges).written_in(spans).tolist() == expected
