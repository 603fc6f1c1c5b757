from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.inputs import image_input
from mmdatasets.planning.runs import collapse_runs
from mmdatasets.planning.sizes import fit_pixels
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import Expansion, ImageInfo


def test_runs_are_collapsed_and_counted() -> None:
    assert collapse_runs("a<x><x><x>b<x><y><y>", "<x>") == Expansion("a<x>b<x><y><y>", (3, 1))
    assert collapse_runs("plain", "<x>") == Expansion("plain", ())


@given(st.lists(st.tuples(st.integers(1, 9), st.text("ab\n", min_size=1, max_size=3))))
def test_collapsing_keeps_every_token(parts: list[tuple[int, str]]) -> None:
    text = "".join("<x>" * count + separator for count, separator in parts)
    expansion = collapse_runs(text, "<x>")
    assert expansion.text == "".join("<x>" + separator for _, separator in parts)
    assert expansion.runs == tuple(count for count, _ in parts)
    assert expansion.num_media_tokens == text.count("<x>")


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (33, 6000), (6000, 4000)])
def test_a_dry_run_says_what_the_real_run_says(size: tuple[int, int]) -> None:
    runner = ProcessorRunner(build_processor("qwen2_vl"))
    width, height = size
    planned = runner.plan([ImageInfo(width, height)])[0]
    outputs, expansions = runner.process([[image_input(torch.randint(0, 255, (3, height, width), dtype=torch.uint8))]])
    assert expansions == [planned]
    assert outputs["pixel_values"].shape[0] == planned.num_media_tokens * 4


def test_a_dry_run_allocates_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ProcessorRunner(build_processor("qwen2_vl"))
    seen = []
    real = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: seen.append(k.get("device")) or real(*a, **k))
    runner.plan([ImageInfo(30_000, 20_000)])[0]
    assert set(seen) == {"meta"}


def test_processors_that_need_data_get_a_blank_image() -> None:
    processor = build_processor("qwen2_vl")
    plain = type(processor.image_processor)._preprocess

    class NeedsData(type(processor.image_processor)):
        def _preprocess(self, images, **kwargs):
            assert float(sum(image.sum() for image in images)) == 0  # raises on tensors without data
            return plain(self, images, **kwargs)

    processor.image_processor = NeedsData(size=processor.image_processor.size)
    runner = ProcessorRunner(processor)
    expected = ProcessorRunner(build_processor("qwen2_vl")).plan([ImageInfo(300, 200)])[0]
    assert runner.plan([ImageInfo(300, 200)])[0] == expected
    assert runner.plan([ImageInfo(300, 200)])[0] == expected


def test_refusals_are_passed_on() -> None:
    with pytest.raises(MediaProcessorError, match="aspect ratio must be smaller than 200, got 300"):
        ProcessorRunner(build_processor("qwen2_vl")).plan([ImageInfo(300, 1)])[0]


@given(
    st.builds(ImageInfo, st.integers(1, 10_000), st.integers(1, 10_000)),
    st.none() | st.integers(1, 10**8),
    st.none() | st.integers(1, 10**8),
)
def test_pixel_budgets_are_kept(info: ImageInfo, low: int | None, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    fitted = fit_pixels(info, low, high)
    pixels = info.width * info.height
    inside = (low is None or pixels >= low) and (high is None or pixels <= high)
    assert (fitted == info) == inside or fitted == info
    if inside:
        assert fitted == info
    elif high is not None and pixels > high:
        assert fitted.width * fitted.height <= high or 1 in (fitted.width, fitted.height)
    else:
        assert fitted.width * fitted.height >= low
