"""Families without a plugin of their own: what the generic plugin is tried on.

Settings are the checkpoint's where a line below says so, else the class defaults. Where a family's published chat
format is not followed, the template is `chatml.jinja`.
"""

from __future__ import annotations

import transformers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from mmdatasets.testing.processors.qwen import qwen_tokenizer
from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer


def _chatml_tokenizer(*special_tokens: str, padding_side: str = "left", **named: str) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special_tokens],
        named_tokens=named,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side=padding_side,
    )


def _tile_tokens() -> list[str]:
    """Where Idefics3 puts a tile: at most six rows of six."""
    return [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


@family(
    "smolvlm",
    checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    modalities=("image", "video"),
    plugin="generic",
)
def _smolvlm() -> ProcessorMixin:
    """It writes numbers of frames in words, for which transformers needs the package num2words."""
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_tile_tokens()],
        named_tokens={
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "video_token": "<video>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
    )
    return transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(
            size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}
        ),
        video_processor=transformers.SmolVLMVideoProcessor(
            size={"longest_edge": 384}, max_image_size={"longest_edge": 384}
        ),
        tokenizer=tokenizer,
        image_seq_len=81,
        chat_template=read_chat_template("idefics3"),
    )


@family(
    "idefics3",
    checkpoint="HuggingFaceM4/Idefics3-8B-Llama3",
    modalities=("image",),
    plugin="generic",
)
def _idefics3() -> ProcessorMixin:
    tokenizer = build_tokenizer(
        ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *_tile_tokens()],
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|reserved_special_token_0|>",
        add_bos=True,
    )
    return transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(
            size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}
        ),
        tokenizer=tokenizer,
        image_seq_len=169,
        chat_template=read_chat_template("idefics3"),
    )


@family(
    "llava_onevision",
    checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
    modalities=("image", "video"),
    plugin="generic",
)
def _llava_onevision() -> ProcessorMixin:
    settings = {"size": {"height": 384, "width": 384}, **normalisation("half")}
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(**settings),
        video_processor=transformers.LlavaOnevisionVideoProcessor(**settings),
        tokenizer=_chatml_tokenizer(image_token="<image>", video_token="<video>"),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=read_chat_template("llava_onevision"),
    )


@family(
    "aya_vision",
    checkpoint="CohereLabs/aya-vision-8b",
    modalities=("image",),
    plugin="generic",
)
def _aya_vision() -> ProcessorMixin:
    tiles = ["TILE", "TILE_GLOBAL", *(f"TILE_{index}" for index in range(1, 13))]
    tokenizer = _chatml_tokenizer(
        "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", *tiles, image_token="<image>"
    )
    return transformers.AyaVisionProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size={"height": 364, "width": 364},
            crop_to_patches=True,
            min_patches=1,
            max_patches=12,
            **normalisation("half"),
        ),
        tokenizer=tokenizer,
        patch_size=14,
        downsample_factor=2,
        img_size=364,
        chat_template=read_chat_template("chatml"),
    )


@family(
    "cohere2_vision",
    checkpoint="CohereLabs/command-a-vision-07-2025",
    modalities=("image",),
    plugin="generic",
    has_model=False,
)
def _cohere2_vision() -> ProcessorMixin:
    tokenizer = _chatml_tokenizer(
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    return transformers.Cohere2VisionProcessor(
        image_processor=transformers.Cohere2VisionImageProcessor(),
        tokenizer=tokenizer,
        chat_template=read_chat_template("chatml"),
    )


@family("got_ocr2", checkpoint="stepfun-ai/GOT-OCR-2.0-hf", modalities=("image",), plugin="generic", has_model=False)
def _got_ocr2() -> ProcessorMixin:
    return transformers.GotOcr2Processor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size={"height": 1024, "width": 1024}, **normalisation("clip")
        ),
        tokenizer=_chatml_tokenizer("<img>", "</img>", padding_side="right", image_token="<imgpad>"),
        chat_template=read_chat_template("chatml"),
    )


@family("ovis2", checkpoint="thisisiron/Ovis2-1B-hf", modalities=("image",), plugin="generic", has_model=False)
def _ovis2() -> ProcessorMixin:
    indicators = ["<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    return transformers.Ovis2Processor(
        image_processor=transformers.Ovis2ImageProcessor(size={"height": 448, "width": 448}),
        tokenizer=_chatml_tokenizer(*indicators, image_token="<image>"),
        image_seq_length=256,
        chat_template=read_chat_template("chatml"),
    )


@family("glm46v", checkpoint="zai-org/GLM-4.6V", modalities=("image", "video"), plugin="generic")
def _glm46v() -> ProcessorMixin:
    special = [
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
    ]
    tokenizer = build_tokenizer(
        special,
        named_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    return transformers.Glm46VProcessor(
        image_processor=transformers.Glm46VImageProcessor(),
        video_processor=transformers.Glm46VVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=read_chat_template("glm4v"),
    )


@family(
    "lighton_ocr",
    checkpoint="lightonai/LightOnOCR-1B-1025",
    modalities=("image",),
    plugin="generic",
)
def _lighton_ocr() -> ProcessorMixin:
    named = {
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_pad|>",
        "image_end_token": "<|vision_end|>",
    }
    return transformers.LightOnOcrProcessor(
        image_processor=transformers.PixtralImageProcessor(
            size={"longest_edge": 1540}, patch_size={"height": 14, "width": 14}, **normalisation("clip")
        ),
        tokenizer=qwen_tokenizer(named_tokens=named),
        patch_size=14,
        spatial_merge_size=2,
        chat_template=read_chat_template("chatml"),
    )


@family(
    "granite4_vision",
    checkpoint="ibm-granite/granite-4.0-3b-vision",
    modalities=("image",),
    plugin="generic",
    has_model=False,
)
def _granite4_vision() -> ProcessorMixin:
    return transformers.Granite4VisionProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"height": 384, "width": 384},
            do_center_crop=False,
            image_grid_pinpoints=[[384, 384 * n] for n in range(1, 5)] + [[384 * n, 384] for n in range(2, 5)],
            **normalisation("half"),
        ),
        tokenizer=_chatml_tokenizer(image_token="<image>"),
        patch_size=16,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        chat_template=read_chat_template("chatml"),
    )


@family(
    "perception_lm",
    checkpoint="facebook/Perception-LM-1B",
    modalities=("image", "video"),
    plugin="generic",
    has_model=False,
)
def _perception_lm() -> ProcessorMixin:
    return transformers.PerceptionLMProcessor(
        image_processor=transformers.PerceptionLMImageProcessor(),
        video_processor=transformers.PerceptionLMVideoProcessor(),
        tokenizer=_chatml_tokenizer(image_token="<|image|>", video_token="<|video|>"),
        patch_size=14,
        pooling_ratio=2,
        chat_template=read_chat_template("chatml"),
    )


@family(
    "video_llama_3",
    checkpoint="DAMO-NLP-SG/VideoLLaMA3-7B-Image-HF",
    modalities=("image", "video"),
    plugin="generic",
    has_model=False,
)
def _video_llama_3() -> ProcessorMixin:
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    return transformers.VideoLlama3Processor(
        image_processor=transformers.VideoLlama3ImageProcessor(),
        video_processor=transformers.VideoLlama3VideoProcessor(),
        tokenizer=qwen_tokenizer(named_tokens=named),
        chat_template=read_chat_template("chatml"),
    )


@family(
    "phi4_multimodal",
    checkpoint="microsoft/Phi-4-multimodal-instruct",
    modalities=("image", "audio"),
    plugin="generic",
    has_model=False,
)
def _phi4_multimodal() -> ProcessorMixin:
    return transformers.Phi4MultimodalProcessor(
        image_processor=transformers.Phi4MultimodalImageProcessor(),
        audio_processor=transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer=_chatml_tokenizer(image_token="<|image|>", audio_token="<|audio|>"),
        chat_template=read_chat_template("chatml"),
    )


@family(
    "audioflamingo3",
    checkpoint="nvidia/audio-flamingo-3-hf",
    modalities=("audio",),
    plugin="generic",
)
def _audioflamingo3() -> ProcessorMixin:
    return transformers.AudioFlamingo3Processor(
        feature_extractor=transformers.WhisperFeatureExtractor(
            feature_size=128, chunk_length=30, return_attention_mask=True
        ),
        tokenizer=_chatml_tokenizer(audio_token="<sound>"),
        chat_template=read_chat_template("chatml"),
    )
