"""Families whose processor changes the text in its call, beyond putting in what its hooks say of an item.

Class defaults and ChatML, as in `more`. The generic plugin has to notice it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmdatasets.testing.processors.recipe import Recipe, both, image, register_recipes

_RECIPES: Mapping[str, Recipe] = {
    "molmo2": Recipe(
        "allenai/Molmo2-8B",
        "Molmo2Processor",
        both("Molmo2"),
        {"image_token": "<|image|>", "video_token": "<|video|>"},
        (
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<frame_start>",
            "<im_end>",
            "<frame_end>",
            "<im_low>",
        ),
    ),
    "chameleon": Recipe(
        "facebook/chameleon-7b",
        "ChameleonProcessor",
        image("Chameleon"),
        {
            "image_token": "<image>",
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "sep_token": "<reserved08706>",
        },
        bos="<s>",
    ),
    "glm_image": Recipe(
        "zai-org/GLM-Image",
        "GlmImageProcessor",
        image("GlmImage"),
        {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"},
        bos="<|dit_token_16384|>",
    ),
}

register_recipes(_RECIPES)
