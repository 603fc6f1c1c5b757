"""The families of this package as subjects of the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from mmdatasets.plugins.registry import get_mm_plugin
from mmdatasets.testing.conformance import SCENARIOS, Subject
from mmdatasets.testing.family_oracles import CallOracle, MiniCPMVOracle, MossVLOracle, SuffixOracle
from mmdatasets.testing.models import build_model, build_text_model
from mmdatasets.testing.oracles import LeftPaddingOracle, TokenizerOracle
from mmdatasets.testing.processors import build_processor, get_spec, list_processors, read_chat_template
from mmdatasets.testing.standins import build_standin, list_standins
from mmdatasets.testing.standins.models import build_standin_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.testing.oracles import Oracle

_ORACLES: Mapping[str, Oracle] = {
    "got_ocr2": CallOracle(),
    "glmasr": LeftPaddingOracle(),
    "minicpm_o": MiniCPMVOracle(),
    "minicpm_v": MiniCPMVOracle(),
    "moss_vl": MossVLOracle(),
    "musicflamingo": LeftPaddingOracle(),
    "paligemma": SuffixOracle(),
}

_UNMASKED = (
    "before a row's first image, transformers' own model lets tokens attend to all images of the row, and to those "
    "that the processor pads it with: they depend on the batch"
)
_PADDED_CLIPS = (
    "in transformers' own audio encoder, what a shorter clip of a batch is padded with reaches the clip's features"
)
_OTHER_PLACEHOLDER = (
    "its call looks for image_placeholder_token, which its template writes, and not for image_token, which it turns "
    "that into"
)
_SEPARATOR = (
    "its call puts a separator behind the text, which ends the answer and is trained; the chat template's marks do "
    "not reach it"
)
_SHARED_BUDGET = (
    "the processor has the videos of a call share a pixel budget, so that a row's frames are resized otherwise in a "
    "batch than alone"
)
_OTHER_FRAMES = "of a batch of videos, the processor's call writes the longest one's number of frames into every row"
_UNSAID_BOS = (
    "the processor refuses two videos in one call, and item by item its hooks leave out the token that its call puts "
    "before a text"
)
_FRAMES_ARE_IMAGES = (
    "frames are images to the processor, so that the ids that `get_mm_inputs` is given do not say where images stand "
    "and where frames: it refuses such rows"
)
_ONE_CLIP = "the processor takes one clip for each text, and refuses a row of two"
_EXCEPTIONS: Mapping[str, Mapping[tuple[str, str], str]] = {
    **{
        name: {
            ("media inputs", one.name): _FRAMES_ARE_IMAGES for one in SCENARIOS if one.modalities >= {"image", "video"}
        }
        for name in ("minicpm_o", "minicpm_v")
    },
    "gemma3n": {(check, "rows of audio"): _PADDED_CLIPS for check in ("logits", "other padding", "packing")},
    "mllama": {("ensured media", "text only"): _UNMASKED},
    "chameleon": {("labels", one.name): _SEPARATOR for one in SCENARIOS},
    "moss_vl": {
        (check, scenario): _SHARED_BUDGET
        for check in ("logits", "other padding")
        for scenario in ("rows of videos", "images and videos, mixed batch")
    },
    "molmo2": {
        (check, scenario): _UNSAID_BOS
        for check in ("token ids", "tensors", "labels", "stages", "media inputs")
        for scenario in ("two videos", "videos of different lengths")
    },
    "qwen3_asr": {(check, "rows of audio"): _ONE_CLIP for check in ("token ids", "labels", "stages", "unexpanded")},
    "smolvlm": {
        **{(check, "rows of videos"): _OTHER_FRAMES for check in ("tensors", "other padding")},
        **{
            (check, "images and videos, mixed batch"): _OTHER_FRAMES
            for check in ("tensors", "other padding", "pixel budget")
        },
    },
    "qianfan_ocr": {("unexpanded", one.name): _OTHER_PLACEHOLDER for one in SCENARIOS if one.modalities},
}


def _before_images(processor: ProcessorMixin, rows: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    """Which tokens of a row depend on padding images, which there are where rows have different numbers of images."""
    is_image = [ids == processor.image_token_id for ids in rows]
    counts = {int(mask.sum()) for mask in is_image}
    return torch.logical_and(is_image[index].cumsum(dim=0) == 0, torch.tensor(len(counts) > 1))


def named_subjects() -> list[Subject]:
    """The processors that a plugin of the registry is made for, and a tokenizer for the one of text-only models."""
    named = [_subject(name) for name in list_processors() if get_spec(name).plugin != "generic"]
    return [_BASE, *named]


def standin_subjects() -> list[Subject]:
    """Stand-ins for processors that are code of their checkpoints."""
    return [
        Subject(
            name,
            partial(build_standin, name),
            partial(build_standin_model, name),
            oracle=_ORACLES.get(name, CallOracle()),
            exceptions=_EXCEPTIONS.get(name, {}),
        )
        for name in list_standins()
    ]


def generic_subjects() -> list[Subject]:
    """The processors that the generic plugin takes without a line of code about them."""
    return [_subject(name) for name in list_processors() if get_spec(name).plugin == "generic"]


def _subject(name: str) -> Subject:
    return Subject(
        name,
        partial(build_processor, name),
        partial(build_model, name) if get_spec(name).has_model else None,
        oracle=_ORACLES.get(name),
        exceptions=_EXCEPTIONS.get(name, {}),
        dependent=_before_images if name == "mllama" else None,
        dependent_reason=_UNMASKED if name == "mllama" else "",
    )


def _text_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer that puts bos before a text by itself, and names an image token: neither is to matter."""
    tokenizer: PreTrainedTokenizerBase = build_processor("lfm2_vl").tokenizer
    tokenizer.chat_template = read_chat_template("chatml")
    return tokenizer


_BASE = Subject(
    "base",
    _text_tokenizer,
    build_text_model,
    lambda tokenizer: get_mm_plugin("base", processor=tokenizer),
    TokenizerOracle(),
)
