"""Families that share nothing with another: InternVL, MiniCPM-V, GLM-4V, ERNIE-4.5-VL, Kimi K2.5 and LFM2-VL."""

from __future__ import annotations

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.qwen import qwen_tokenizer
from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer


@family("internvl", checkpoint="OpenGVLab/InternVL3-1B-hf", modalities=("image", "video"), plugin="internvl")
def _internvl() -> ProcessorMixin:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    settings = {"size": {"height": 448, "width": 448}, **normalisation("imagenet")}
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            crop_to_patches=False, min_patches=1, max_patches=12, **settings
        ),
        video_processor=transformers.InternVLVideoProcessor(**settings),
        tokenizer=qwen_tokenizer(
            more_special_tokens=("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
            named_tokens=named,
            padding_side="left",
        ),
        image_seq_length=256,
        chat_template=read_chat_template("internvl"),
    )


def _minicpmv(version: str, parts: str) -> ProcessorMixin:
    """Media settings are the class defaults, which the checkpoints repeat."""
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    processor: ProcessorMixin = getattr(transformers, f"MiniCPM{version}Processor")(
        image_processor=getattr(transformers, f"MiniCPM{parts}ImageProcessor")(),
        video_processor=getattr(transformers, f"MiniCPM{parts}VideoProcessor")(),
        tokenizer=qwen_tokenizer(
            more_special_tokens=("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<point>", "</point>"),
            named_tokens=named,
        ),
        chat_template=read_chat_template("minicpmv4_6"),
    )
    return processor


@family("minicpmv4_6", checkpoint="openbmb/MiniCPM-V-4.6", modalities=("image", "video"), plugin="minicpmv4_6")
def _minicpmv4_6() -> ProcessorMixin:
    return _minicpmv("V4_6", "V4_6")


@family(
    "minicpmv4_7",
    checkpoint="openbmb/MiniCPM-V-4.7-1B",
    modalities=("image", "video"),
    plugin="minicpmv4_6",
    has_model=False,
)
def _minicpmv4_7() -> ProcessorMixin:
    return _minicpmv("V4_7", "V4_6")


@family(
    "minicpm_ocr",
    checkpoint="openbmb/MiniCPM-OCR-1.0",
    modalities=("image", "video"),
    plugin="minicpmv4_6",
    has_model=False,
)
def _minicpm_ocr() -> ProcessorMixin:
    return _minicpmv("Ocr", "Ocr")


@family("glm4v", checkpoint="zai-org/GLM-4.1V-9B-Thinking", modalities=("image", "video"), plugin="glm4v")
def _glm4v() -> ProcessorMixin:
    special = [
        "<|endoftext|>",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<sop>",
        "<eop>",
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
        plain_tokens=("<think>", "</think>", "<answer>", "</answer>"),
        named_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    return transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessor(size={"shortest_edge": 12544, "longest_edge": 9633792}),
        video_processor=transformers.Glm4vVideoProcessor(size={"shortest_edge": 12544, "longest_edge": 47040000}),
        tokenizer=tokenizer,
        chat_template=read_chat_template("glm4v"),
    )


@family("ernie4_5_vl", checkpoint="baidu/ERNIE-4.5-VL-28B-A3B-PT", modalities=("image", "video"), plugin="ernie_vl")
def _ernie4_5_vl() -> ProcessorMixin:
    named = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    tokenizer = build_tokenizer(
        ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>"],
        named_tokens=named,
        bos_token="<|begin_of_sentence|>",
        eos_token="<|end_of_sentence|>",
        pad_token="<unk>",
        padding_side="left",
    )
    return transformers.Ernie4_5_VLMoeProcessor(
        image_processor=transformers.Ernie4_5_VLMoeImageProcessor(),
        # The checkpoint draws each frame's time onto it, in a font that is downloaded: nothing offline has it.
        video_processor=transformers.Ernie4_5_VLMoeVideoProcessor(draw_on_frames=False),
        tokenizer=tokenizer,
        chat_template=read_chat_template("ernie4_5_vl"),
    )


@family("kimi_k25", checkpoint="moonshotai/Kimi-K2.5", modalities=("image", "video"), plugin="kimi_vl")
def _kimi_k25() -> ProcessorMixin:
    """Media settings are the class defaults, which the checkpoint repeats; its sizes are in patches."""
    special = [
        "[BOS]",
        "[EOS]",
        "<|im_end|>",
        "<|im_user|>",
        "<|im_assistant|>",
        "<|im_system|>",
        "<|im_middle|>",
        "<|media_begin|>",
        "<|media_content|>",
        "<|media_end|>",
        "<|media_pad|>",
        "[UNK]",
        "[PAD]",
    ]
    tokenizer = build_tokenizer(
        special,
        named_tokens={"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"},
        bos_token="[BOS]",
        eos_token="<|im_end|>",
        pad_token="[PAD]",
    )
    return transformers.Kimi_K25Processor(
        image_processor=transformers.Kimi_K25ImageProcessor(),
        video_processor=transformers.Kimi_K25VideoProcessor(),
        tokenizer=tokenizer,
        chat_template=read_chat_template("kimi_k25"),
    )


@family("lfm2_vl", checkpoint="LiquidAI/LFM2-VL-1.6B", modalities=("image",), plugin="lfm2_vl")
def _lfm2_vl() -> ProcessorMixin:
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11)]
    tokenizer = build_tokenizer(
        ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *tiles],
        named_tokens={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail": "<|img_thumbnail|>",
        },
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        add_bos=True,
        padding_side="left",
    )
    return transformers.Lfm2VlProcessor(
        image_processor=transformers.Lfm2VlImageProcessor(),
        tokenizer=tokenizer,
        chat_template=read_chat_template("lfm2_vl"),
    )
