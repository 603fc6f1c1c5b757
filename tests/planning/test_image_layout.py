"""Images whose channels stand side by side become the same tensors, without a copy before they are resized."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.image_layout import with_channels_last
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import ImageInfo, MediaInput

# Bicubic, bilinear and Lanczos; tiles, crops and padding.
FAMILIES = ("qwen2_vl", "llava_next", "internvl", "gemma3", "pixtral", "idefics3", "lfm2_vl", "mllama")
PROCESSORS = {name: build_processor(name) for name in FAMILIES}


def pixels(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """An image as decoders give it: the channels of a pixel side by side."""
    values = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return torch.from_numpy(values).permute(2, 0, 1)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=8)
@given(width=st.integers(30, 700), height=st.integers(30, 700), seed=st.integers(0, 9))
def test_the_tensors_are_those_of_the_processors_own_call(name, width, height, seed):
    if max(width, height) / min(width, height) > 20:
        width = height
    processor, image = PROCESSORS[name], pixels(width, height, seed)
    runner = ProcessorRunner(processor)
    outputs, _ = runner.process([[MediaInput(ImageInfo(width, height), image)]])
    expected, _ = processor._process_images([[image.contiguous()]], **runner.kwargs("image"))
    assert torch.equal(torch.as_tensor(outputs["pixel_values"]), torch.as_tensor(expected["pixel_values"]))


def test_a_decoded_image_is_not_copied_before_it_is_resized():
    processor = PROCESSORS["qwen2_vl"]
    seen = []

    class Watched(type(processor.image_processor)):
        def resize(self, *args, **kwargs):
            seen.extend([*args, *kwargs.values()][:1])
            return super().resize(*args, **kwargs)

    watched = build_processor("qwen2_vl")
    watched.image_processor.__class__ = Watched
    image = pixels(640, 480)
    ProcessorRunner(watched).process([[MediaInput(ImageInfo(640, 480), image)]])
    assert [one.data_ptr() for one in seen if not one.is_meta] == [image.data_ptr()]


def test_what_is_no_decoded_image_is_prepared_by_the_processor():
    processor = PROCESSORS["qwen2_vl"]
    changed = with_channels_last(processor)
    array = np.random.default_rng(0).integers(0, 256, size=(64, 90, 3), dtype=np.uint8)
    made, expected = (one.image_processor([array], return_tensors="pt") for one in (changed, processor))
    assert torch.equal(made["pixel_values"], expected["pixel_values"])
    assert changed is not processor
    assert "process_image" not in vars(processor.image_processor)


def test_processors_that_prepare_images_in_a_way_of_their_own_are_left_alone():
    processor = build_processor("qwen2_vl")

    class Own(type(processor.image_processor)):
        def process_image(self, image, **kwargs):
            return super().process_image(image, **kwargs)

    processor.image_processor.__class__ = Own
    assert with_channels_last(processor) is processor
    assert with_channels_last(processor.tokenizer) is processor.tokenizer
