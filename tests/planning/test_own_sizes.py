"""Whether the edges in a processor's `size` count pixels is asked of the processor, and budgets then hold exactly."""

from __future__ import annotations

import pytest

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.planning.own_sizes import image_size_counts_pixels, own_size
from mmdatasets.testing import build_processor, list_processors
from mmdatasets.testing.standins import build_standin

# Whose code resizes to `size.shortest_edge` and `size.longest_edge` pixels of the whole image.
PIXELS = {
    *("ernie4_5_vl", "glm4v", "glm46v", "qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_vl", "qwen3_5"),
    *("qwen3_omni_moe", "cohere_compass", "cosmos3_edge", "dots3_note", "exaone4_5", "glm_image", "hunyuan_vl"),
    *("hyperclovax_vision_v2", "lfm3_vl", "minimax_m3_vl", "paddleocr_vl", "video_llama_3"),
}
CHAT = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]


@pytest.mark.parametrize("name", list_processors())
def test_which_processors_count_pixels(name: str) -> None:
    assert image_size_counts_pixels(build_processor(name)) == (name in PIXELS)


def test_lengths_of_sides_are_no_numbers_of_pixels() -> None:
    """Idefics 2 has both edges, and its call says what they are."""
    assert own_size(build_processor("idefics2"), "image") == {"shortest_edge": 378, "longest_edge": 980}
    assert own_size(build_processor("llava"), "image") is None
    assert own_size(build_processor("qwen2_audio"), "image") is None


def test_code_of_model_hubs_is_not_asked() -> None:
    processor = build_standin("moss_vl")
    assert own_size(processor, "image") is not None
    assert not image_size_counts_pixels(processor)


def num_pixels(name: str, path: object, **budget: int) -> int:
    """Pixels of the image as the model gets it, by its grid."""
    plugin = auto_plugin(build_processor(name), options=MediaOptions(**budget))
    columns = plugin.transform({"messages": [CHAT], "images": [[str(path)]]})
    [(_, height, width)] = plugin.collator()([{key: column[0] for key, column in columns.items()}])["image_grid_thw"]
    return int(height * width) * plugin.processor.image_processor.patch_size**2


# GLM-Image is refused. Hunyuan's and others' minimum of their own is above the budgets.
@pytest.mark.parametrize("name", sorted(PIXELS - {"glm_image"}))
@pytest.mark.parametrize("budget", [20_000, 100_000])
def test_no_image_is_larger_than_the_budget(name: str, budget: int, image_file) -> None:
    for size in ((800, 600), (1200, 90), (140, 142)):
        assert num_pixels(name, image_file(*size), image_max_pixels=budget) <= budget


@pytest.mark.parametrize("name", sorted(PIXELS - {"glm_image"}))
def test_no_image_is_smaller_than_the_budget(name: str, image_file) -> None:
    assert 200_000 <= num_pixels(name, image_file(80, 60), image_min_pixels=200_000) <= 300_000
