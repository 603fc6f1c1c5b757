"""Still more families without a plugin of their own, at their classes' default settings and on ChatML.

A family is one `Recipe`. They show what the generic plugin makes of a processor that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmdatasets.testing.processors.recipe import Recipe, both, image, register_recipes
from mmdatasets.testing.processors.registry import normalisation

_IMAGE = {"image_token": "<image>"}
_QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>")
_GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_TOKENS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
_MUSE = {"image_token": "<|patch|>", "video_token": "<|video|>"}
_MUSE_TOKENS = ("<|image_start|>", "<|image_end|>", "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>")
_BOI_EOI = {"image_token": "<image>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}

_RECIPES: Mapping[str, Recipe] = {
    "aria": Recipe("rhymes-ai/Aria", "AriaProcessor", image("Aria"), _IMAGE),
    "cohere_compass": Recipe(
        "CohereLabs/North-Micro-Vision-Instruct",
        "CohereCompassProcessor",
        both("CohereCompass"),
        {"image_token": "<|IMAGE_PAD|>", "video_token": "<|VIDEO_PAD|>"},
        ("<|VISION_START|>", "<|VISION_END|>"),
    ),
    "cosmos3_edge": Recipe("nvidia/Cosmos3-Edge", "Cosmos3EdgeProcessor", both("Cosmos3Edge"), _QWEN, _QWEN_TOKENS),
    "deepseek_ocr2": Recipe(
        "deepseek-community/DeepSeek-OCR-2", "DeepseekOcr2Processor", image("DeepseekOcr2"), _IMAGE
    ),
    "deepseek_vl": Recipe(
        "deepseek-community/deepseek-vl-1.3b-chat", "DeepseekVLProcessor", image("DeepseekVL"), _IMAGE
    ),
    "deepseek_vl_hybrid": Recipe(
        "deepseek-community/deepseek-vl-7b-chat", "DeepseekVLHybridProcessor", image("DeepseekVLHybrid"), _IMAGE
    ),
    "dots3_note": Recipe(
        "dots-studio/dots3-note-prev",
        "Dots3NoteProcessor",
        {**both("Qwen2VL", "Qwen3VL"), "feature_extractor": "Dots3NoteFeatureExtractor"},
        {"image_token": "<|imgpad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_comp_pad|>"},
    ),
    "emu3": Recipe(
        "BAAI/Emu3-Chat-hf",
        "Emu3Processor",
        image("Emu3"),
        {
            **_BOI_EOI,
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
        bos="<|extra_203|>",
        # The class's default lists are those of every class that uses them.
        part_settings={"image_processor": normalisation("clip")},
    ),
    "exaone4_5": Recipe("LGAI-EXAONE/EXAONE-4.5-33B", "Exaone4_5_Processor", both("Qwen2VL"), _QWEN, _QWEN_TOKENS),
    "gemma4_unified": Recipe(
        "google/gemma-4-12B-it",
        "Gemma4UnifiedProcessor",
        {**both("Gemma4Unified"), "feature_extractor": "Gemma4UnifiedAudioFeatureExtractor"},
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
    "glm5_next": Recipe("zai-org/GLM-5.3-Flash", "Glm5NextProcessor", both("Glm5Next"), _GLM, _GLM_TOKENS),
    "granite_docling": Recipe(
        "ibm-granite/granite-for-docling-500m",
        "GraniteDoclingProcessor",
        image("GraniteDocling"),
        _IMAGE,
        ("<fake_token_around_image>", "<global-img>"),
    ),
    "hunyuan_vl": Recipe(
        "tencent/HunyuanOCR",
        "HunYuanVLProcessor",
        image("HunYuanVL"),
        {"image_token": "<image>", "image_start_token": "<img>", "image_end_token": "</img>"},
        wrapped=True,
    ),
    "hyperclovax_vision_v2": Recipe(
        "naver-hyperclovax/HyperCLOVAX-SEED-Think-32B",
        "HyperCLOVAXVisionV2Processor",
        both("Qwen2VL"),
        _QWEN,
        _QWEN_TOKENS,
    ),
    "idefics2": Recipe(
        "HuggingFaceM4/idefics2-8b",
        "Idefics2Processor",
        image("Idefics2"),
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"},
    ),
    "inkling": Recipe(
        "thinkingmachines/Inkling",
        "InklingProcessor",
        {**image("Inkling"), "feature_extractor": "InklingFeatureExtractor"},
        {"image_token": "<|unused_200054|>", "audio_token": "<|unused_200053|>"},
        ("<|content_image|>", "<|content_audio_input|>"),
    ),
    "inkling2": Recipe(
        "thinkingmachines/Inkling-2-Small-MXFP8",
        "Inkling2Processor",
        image("Inkling2"),
        {"image_token": "<|unused_200054|>"},
    ),
    "janus": Recipe("deepseek-community/Janus-Pro-1B", "JanusProcessor", image("Janus"), _BOI_EOI),
    "lfm3_vl": Recipe("LiquidAI/LFM3-VL-2B", "Lfm3VlProcessor", both("Qwen2VL", "Qwen3VL"), _QWEN, _QWEN_TOKENS),
    "minimax_m3_vl": Recipe(
        "MiniMaxAI/MiniMax-M3",
        "MiniMaxM3VLProcessor",
        both("MiniMaxM3VL"),
        {"image_token": "]<]image[>[", "video_token": "]<]video[>["},
        ("]<]start of image[>[", "]<]end of image[>["),
    ),
    "muse_glimmer": Recipe(
        "meta-models/Muse-Glimmer-30B", "MuseGlimmerProcessor", both("MuseGlimmer"), _MUSE, _MUSE_TOKENS
    ),
    "muse_spark": Recipe(
        "meta-models/Muse-Spark-Open-816B-A42B",
        "MuseSparkProcessor",
        {**both("MuseGlimmer"), "feature_extractor": "MuseSparkFeatureExtractor"},
        {**_MUSE, "audio_token": "<|audio|>"},
        (*_MUSE_TOKENS, "<|soft_audio_start|>", "<|soft_audio_end|>"),
    ),
    "musicflamingo": Recipe(
        "nvidia/music-flamingo-2601-hf",
        "MusicFlamingoProcessor",
        {"feature_extractor": "WhisperFeatureExtractor"},
        {"audio_token": "<sound>"},
        ("<|sound_bos|>", "<|sound_eos|>"),
        part_settings={"feature_extractor": {"feature_size": 128, "return_attention_mask": True}},
    ),
    "nemotron_h_omni": Recipe(
        "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16",
        "NemotronH_Omni_Reasoning_V3Processor",
        {**both("NemotronH_Omni_Reasoning_V3"), "feature_extractor": "ParakeetFeatureExtractor"},
        {"image_token": "<image>", "video_token": "<video>", "audio_token": "<so_embedding>"},
        ("<so_start>", "<so_end>", "<img>", "</img>"),
        # The class has no default.
        part_settings={"video_processor": {"norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5]}},
    ),
    "paddleocr_vl": Recipe(
        "PaddlePaddle/PaddleOCR-VL",
        "PaddleOCRVLProcessor",
        image("PaddleOCRVL"),
        {"image_token": "<|IMAGE_PLACEHOLDER|>"},
        ("<|IMAGE_START|>", "<|IMAGE_END|>"),
    ),
    "qianfan_ocr": Recipe(
        "baidu/Qianfan-OCR",
        "QianfanOCRProcessor",
        image("GotOcr2"),
        {
            "image_token": "<image>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
    ),
    "step3p7": Recipe(
        "stepfun-ai/Step-3.7-Flash",
        "Step3p7Processor",
        image("Step3p7"),
        {"image_token": "<im_patch>"},
        ("<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"),
    ),
    "unlimited_ocr": Recipe("baidu/Unlimited-OCR", "UnlimitedOcrProcessor", image("UnlimitedOcr"), _IMAGE),
    "glmasr": Recipe(
        "zai-org/GLM-ASR-Nano-2512",
        "GlmAsrProcessor",
        {"feature_extractor": "WhisperFeatureExtractor"},
        {"audio_token": "<|pad|>"},
        ("<|begin_of_audio|>", "<|end_of_audio|>"),
        part_settings={"feature_extractor": {"feature_size": 128, "return_attention_mask": True}},
    ),
    "moss_transcribe_diarize": Recipe(
        "hf-audio/MOSS-Transcribe-Diarize-HF",
        "MossTranscribeDiarizeProcessor",
        {"feature_extractor": "MossTranscribeDiarizeFeatureExtractor"},
        {"audio_token": "<|audio_pad|>"},
        ("<|audio_start|>", "<|audio_end|>"),
    ),
    "qwen3_asr": Recipe(
        "Qwen/Qwen3-ASR-1.7B-hf",
        "Qwen3ASRProcessor",
        {"feature_extractor": "Qwen3ASRFeatureExtractor"},
        {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"},
    ),
}

NOT_TRIED: Mapping[str, str] = {
    "blip_2": "its call writes image tokens before the text itself, where no placeholder stands",
    "colmodernvbert": "a retrieval processor: its call takes pages or queries, not a conversation",
    "colpali": "a retrieval processor: its call takes pages or queries, not a conversation",
    "colqwen2": "a retrieval processor: its call takes pages or queries, not a conversation",
    "csm": "generates speech: audio stands in the text as codes",
    "dia": "generates speech: audio stands in the text as codes",
    "embedding_gemma2": "an embedding model's processor; Gemma 4's, of which it is made, is tried",
    "florence2": "its call puts the image token before a task's prompt itself, and refuses a conversation's own",
    "fuyu": "its call puts the image token before the text itself, and refuses a conversation's own",
    "higgs_audio_v2": "generates speech: audio stands in the text as codes",
    "idefics": "its call takes prompts as lists of texts and images, and has no placeholder in the text",
    "instructblip": "its call writes image tokens before the text itself, where no placeholder stands",
    "kosmos2": "its call writes the image's tokens before the text itself, where no placeholder stands",
    "kosmos2_5": "its call writes the one image's tokens before the text itself, where no placeholder stands",
    "nemotron3_5_transcribe": "needs a second tokenizer, that of its alignment head",
    "neomme": "a retrieval processor: its call takes pages or queries, not a conversation",
    "pi0": "a robot's policy: its call takes states and actions",
    "pocket_tts": "generates speech: audio stands in the text as codes",
    "shieldgemma2": "classifies an image against policies: its chat template takes those and no answer",
    "vibevoice": "generates speech from voices",
    "voxtral": "its tokenizer, of mistral-common, gives no characters for its tokens, and its call takes no answer",
    "voxtral_realtime": "transcribes: its call takes audio alone and writes the tokens itself",
}
"""Folder of transformers' models -> why its processor is not among the families here."""

register_recipes(_RECIPES)
