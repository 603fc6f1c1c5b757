"""Still more families without a plugin of their own, at their classes' default settings and on ChatML.

A family is one `_Recipe`. They show what the generic plugin makes of a processor that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.registry import family, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer
from mmdatasets.types import MODALITIES, Modality

_PARTS: Mapping[str, Modality] = {
    "image_processor": "image",
    "video_processor": "video",
    "feature_extractor": "audio",
    "audio_processor": "audio",
}


@dataclass(frozen=True)
class _Recipe:
    """How to build a processor.

    Attributes:
        checkpoint: The checkpoint that transformers' documentation of the class names.
        kind: The processor's class.
        parts: Argument -> class of the processor's parts, besides the tokenizer.
        named: Attribute of the tokenizer -> token.
        tokens: Further special tokens.
        settings: Further arguments of the processor.
        part_settings: Argument -> arguments of the part.
    """

    checkpoint: str
    kind: str
    parts: Mapping[str, str]
    named: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    part_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    template: str | None = "chatml"


def _build(recipe: _Recipe) -> ProcessorMixin:
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *recipe.tokens],
        named_tokens=recipe.named,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    parts = {
        argument: getattr(transformers, name)(**recipe.part_settings.get(argument, {}))
        for argument, name in recipe.parts.items()
    }
    settings = dict(recipe.settings)
    if recipe.template is not None:
        settings["chat_template"] = read_chat_template(recipe.template)
    processor: ProcessorMixin = getattr(transformers, recipe.kind)(tokenizer=tokenizer, **parts, **settings)
    return processor


def _image(name: str) -> dict[str, str]:
    return {"image_processor": f"{name}ImageProcessor"}


def _both(name: str, video: str | None = None) -> dict[str, str]:
    return {"image_processor": f"{name}ImageProcessor", "video_processor": f"{video or name}VideoProcessor"}


_IMAGE = {"image_token": "<image>"}
_QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>")
_GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_TOKENS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
_MUSE = {"image_token": "<|patch|>", "video_token": "<|video|>"}
_MUSE_TOKENS = ("<|image_start|>", "<|image_end|>", "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>")
_MINICPM = {
    "image_token": "<image_pad>",
    "video_token": "<video_pad>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
_BOI_EOI = {"image_token": "<image>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}

_RECIPES: Mapping[str, _Recipe] = {
    "aria": _Recipe("rhymes-ai/Aria", "AriaProcessor", _image("Aria"), _IMAGE),
    "chameleon": _Recipe(
        "facebook/chameleon-7b",
        "ChameleonProcessor",
        _image("Chameleon"),
        _BOI_EOI,
    ),
    "cohere_compass": _Recipe(
        "CohereLabs/North-Micro-Vision-Instruct",
        "CohereCompassProcessor",
        _both("CohereCompass"),
        {"image_token": "<|IMAGE_PAD|>", "video_token": "<|VIDEO_PAD|>"},
        ("<|VISION_START|>", "<|VISION_END|>"),
    ),
    "cosmos3_edge": _Recipe(
        "nvidia/Cosmos3-Edge", "Cosmos3EdgeProcessor", _both("Cosmos3Edge"), _QWEN, _QWEN_TOKENS
    ),
    "deepseek_ocr2": _Recipe(
        "deepseek-community/DeepSeek-OCR-2", "DeepseekOcr2Processor", _image("DeepseekOcr2"), _IMAGE
    ),
    "deepseek_vl": _Recipe(
        "deepseek-community/deepseek-vl-1.3b-chat", "DeepseekVLProcessor", _image("DeepseekVL"), _IMAGE
    ),
    "deepseek_vl_hybrid": _Recipe(
        "deepseek-community/deepseek-vl-7b-chat", "DeepseekVLHybridProcessor", _image("DeepseekVLHybrid"), _IMAGE
    ),
    "dots3_note": _Recipe(
        "dots-studio/dots3-note-prev",
        "Dots3NoteProcessor",
        {**_both("Qwen2VL", "Qwen3VL"), "feature_extractor": "Dots3NoteFeatureExtractor"},
        {"image_token": "<|imgpad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_comp_pad|>"},
    ),
    "emu3": _Recipe(
        "BAAI/Emu3-Chat-hf",
        "Emu3Processor",
        _image("Emu3"),
        {
            **_BOI_EOI,
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
    ),
    "exaone4_5": _Recipe("LGAI-EXAONE/EXAONE-4.5-33B", "Exaone4_5_Processor", _both("Qwen2VL"), _QWEN, _QWEN_TOKENS),
    "florence2": _Recipe(
        "florence-community/Florence-2-large",
        "Florence2Processor",
        _image("CLIP"),
        _IMAGE,
        part_settings={"image_processor": {"image_seq_length": 577}},
    ),
    "fuyu": _Recipe(
        "adept/fuyu-8b", "FuyuProcessor", _image("Fuyu"), {"image_token": "|SPEAKER|"}, ("|NEWLINE|",), template=None
    ),
    "gemma4_unified": _Recipe(
        "google/gemma-4-unified",
        "Gemma4UnifiedProcessor",
        {**_both("Gemma4Unified"), "feature_extractor": "Gemma4UnifiedFeatureExtractor"},
        {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "video_token": "<|video|>",
        },
    ),
    "glm5_next": _Recipe("zai-org/GLM-5.3-Flash", "Glm5NextProcessor", _both("Glm5Next"), _GLM, _GLM_TOKENS),
    "glm_image": _Recipe(
        "zai-org/GLM-Image",
        "GlmImageProcessor",
        _image("GlmImage"),
        {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"},
    ),
    "granite_docling": _Recipe(
        "ibm-granite/granite-for-docling-500m",
        "GraniteDoclingProcessor",
        _image("GraniteDocling"),
        _IMAGE,
        ("<fake_token_around_image>", "<global-img>"),
    ),
    "hunyuan_vl": _Recipe(
        "tencent/HunyuanOCR",
        "HunYuanVLProcessor",
        _image("HunYuanVL"),
        {"image_token": "<image>", "image_start_token": "<img>", "image_end_token": "</img>"},
    ),
    "hyperclovax_vision_v2": _Recipe(
        "naver-hyperclovax/HyperCLOVAX-SEED-Think-32B",
        "HyperCLOVAXVisionV2Processor",
        _both("Qwen2VL"),
        _QWEN,
        _QWEN_TOKENS,
    ),
    "idefics2": _Recipe(
        "HuggingFaceM4/idefics2-8b",
        "Idefics2Processor",
        _image("Idefics2"),
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"},
    ),
    "inkling": _Recipe(
        "thinkingmachines/Inkling",
        "InklingProcessor",
        {**_image("Inkling"), "feature_extractor": "InklingFeatureExtractor"},
        {"image_token": "<|unused_200054|>", "audio_token": "<|unused_200053|>"},
        ("<|content_image|>", "<|content_audio_input|>"),
    ),
    "inkling2": _Recipe(
        "thinkingmachines/Inkling-2-Small-MXFP8",
        "Inkling2Processor",
        _image("Inkling2"),
        {"image_token": "<|unused_200054|>"},
    ),
    "janus": _Recipe("deepseek-community/Janus-Pro-1B", "JanusProcessor", _image("Janus"), _BOI_EOI),
    "kosmos2_5": _Recipe("microsoft/kosmos-2.5", "Kosmos2_5Processor", _image("Kosmos2_5"), _BOI_EOI, template=None),
    "lfm3_vl": _Recipe(
        "LiquidAI/LFM3-VL-2B", "Lfm3VlProcessor", _both("Qwen2VL", "Qwen3VL"), _QWEN, _QWEN_TOKENS
    ),
    "minicpm_ocr": _Recipe("openbmb/MiniCPM-OCR-1.0", "MiniCPMOCRProcessor", _both("MiniCPMOCR"), _MINICPM),
    "minicpmv4_7": _Recipe("openbmb/MiniCPM-V-4.7-1B", "MiniCPMV4_7Processor", _both("MiniCPMV4_6"), _MINICPM),
    "minimax_m3_vl": _Recipe(
        "MiniMaxAI/MiniMax-M3",
        "MiniMaxM3VLProcessor",
        _both("MiniMaxM3VL"),
        {"image_token": "]<]image[>[", "video_token": "]<]video[>["},
        ("]<]start of image[>[", "]<]end of image[>["),
    ),
    "molmo2": _Recipe(
        "allenai/Molmo2-8B",
        "Molmo2Processor",
        _both("Molmo2"),
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
    "muse_glimmer": _Recipe(
        "meta-models/Muse-Glimmer-30B", "MuseGlimmerProcessor", _both("MuseGlimmer"), _MUSE, _MUSE_TOKENS
    ),
    "muse_spark": _Recipe(
        "meta-models/Muse-Spark-Open-816B-A42B",
        "MuseSparkProcessor",
        {**_both("MuseGlimmer"), "feature_extractor": "MuseSparkFeatureExtractor"},
        {**_MUSE, "audio_token": "<|audio|>"},
        (*_MUSE_TOKENS, "<|soft_audio_start|>", "<|soft_audio_end|>"),
    ),
    "musicflamingo": _Recipe(
        "nvidia/music-flamingo-2601-hf",
        "MusicFlamingoProcessor",
        {"feature_extractor": "WhisperFeatureExtractor"},
        {"audio_token": "<sound>"},
        ("<|sound_bos|>", "<|sound_eos|>"),
        part_settings={"feature_extractor": {"feature_size": 128, "return_attention_mask": True}},
    ),
    "nemotron_h_omni": _Recipe(
        "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16",
        "NemotronHOmniProcessor",
        {**_both("NemotronHOmni"), "feature_extractor": "ParakeetFeatureExtractor"},
        {"image_token": "<image>", "video_token": "<video>", "audio_token": "<so_embedding>"},
        ("<so_start>", "<so_end>", "<img>", "</img>"),
    ),
    "neomme": _Recipe("Hcompany/NeoMME-260M", "NeoMMEProcessor", _image("NeoMME"), _IMAGE),
    "paddleocr_vl": _Recipe(
        "PaddlePaddle/PaddleOCR-VL",
        "PaddleOCRVLProcessor",
        _image("PaddleOCRVL"),
        {"image_token": "<|IMAGE_PLACEHOLDER|>"},
        ("<|IMAGE_START|>", "<|IMAGE_END|>"),
    ),
    "qianfan_ocr": _Recipe(
        "baidu/Qianfan-OCR",
        "QianfanOCRProcessor",
        _image("GotOcr2"),
        {
            "image_token": "<image>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
    ),
    "granite_speech": _Recipe(
        "ibm-granite/granite-speech-3.3-2b",
        "GraniteSpeechProcessor",
        {"audio_processor": "GraniteSpeechFeatureExtractor"},
        {"audio_token": "<|audio|>"},
    ),
    "step3p7": _Recipe(
        "stepfun-ai/Step-3.7-Flash",
        "Step3p7Processor",
        _image("Step3p7"),
        {"image_token": "<im_patch>"},
        ("<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"),
    ),
    "unlimited_ocr": _Recipe("baidu/Unlimited-OCR", "UnlimitedOcrProcessor", _image("UnlimitedOcr"), _IMAGE),
}

NOT_TRIED: Mapping[str, str] = {}
"""Folder of transformers' models -> why its processor is not among the families here."""

for _name, _recipe in _RECIPES.items():
    _has = {_PARTS[argument] for argument in _recipe.parts}
    family(
        _name,
        checkpoint=_recipe.checkpoint,
        modalities=tuple(kind for kind in MODALITIES if kind in _has),
        plugin="generic",
        has_model=False,
    )(partial(_build, _recipe))
