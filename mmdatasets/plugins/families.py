"""The families that come with the package, as data: what the registry registers and `mmdatasets families` lists.

Nothing heavy is imported here. `modalities` and `packs` say what the conformance suite found, see `docs/families.md`;
a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmdatasets.types import Modality


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """A family.

    Attributes:
        name: The plugin's name.
        models: The models that it is for, in words.
        processors: Names of the processor classes that `auto_plugin` knows the family by.
        modalities: What its processors take; of several processors, whatever one of them does. Nothing where that is
            up to the processor.
        packs: What `plugin.packed_collator` takes as `attention` for its models; likewise. Nothing where packing is
            refused.
        aliases: Other names of the plugin.
    """

    name: str
    models: str
    processors: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()
    packs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


_IMAGE: tuple[Modality, ...] = ("image",)
_VISION: tuple[Modality, ...] = ("image", "video")
_ALL: tuple[Modality, ...] = ("image", "video", "audio")
_MASKED = ("block_mask", "flex")
_ROTARY = ("varlen", "block_mask")
_ANY = ("varlen", "block_mask", "flex")

FAMILIES = (
    FamilyFacts("base", "text-only models; plugins of your own derive from its class", packs=_ANY),
    FamilyFacts("generic", "any other processor of transformers 5 that says itself what an item becomes in the text"),
    FamilyFacts("ernie_vl", "ERNIE 4.5 VL", ("Ernie4_5_VLMoeProcessor",), _VISION, _ROTARY),
    FamilyFacts("gemma3", "Gemma 3", ("Gemma3Processor",), _IMAGE, _MASKED),
    FamilyFacts("gemma3n", "Gemma 3n", ("Gemma3nProcessor",), ("image", "audio"), _ANY),
    FamilyFacts("gemma4", "Gemma 4", ("Gemma4Processor",), _ALL, _MASKED),
    FamilyFacts("glm4v", "GLM-4.1V, GLM-4.5V, GLM-4.6V", ("Glm4vProcessor", "Glm46VProcessor"), _VISION, _ROTARY),
    FamilyFacts("internvl", "InternVL 3", ("InternVLProcessor",), _VISION, _ANY, ("intern_vl",)),
    FamilyFacts("kimi_vl", "Kimi K2.5, Kimi-VL", ("KimiVLProcessor", "Kimi_K25Processor"), _VISION, _ANY),
    FamilyFacts("lfm2_vl", "LFM2-VL", ("Lfm2VlProcessor",), _IMAGE),
    FamilyFacts("llama4", "Llama 4", ("Llama4Processor",), _IMAGE, _ANY),
    FamilyFacts("llava", "LLaVA 1.5", ("LlavaProcessor",), _IMAGE, _ANY),
    FamilyFacts("llava_next", "LLaVA-NeXT", ("LlavaNextProcessor",), _IMAGE, _ANY),
    FamilyFacts("llava_next_video", "LLaVA-NeXT-Video", ("LlavaNextVideoProcessor",), _VISION, _ANY),
    FamilyFacts(
        "minicpmv",
        "MiniCPM-V and MiniCPM-o 2.6",
        ("MiniCPMVProcessor", "MiniCPMOProcessor"),
        _ALL,
        aliases=("minicpm_v",),
    ),
    FamilyFacts(
        "minicpmv4_6",
        "MiniCPM-V 4.6",
        ("MiniCPMV4_6Processor", "MiniCPMV4_7Processor", "MiniCPMOcrProcessor"),
        _VISION,
        _ROTARY,
        ("minicpm_v_4_6",),
    ),
    FamilyFacts("mllama", "Llama 3.2 Vision", ("MllamaProcessor",), _IMAGE),
    FamilyFacts("moss_vl", "MOSS-VL", ("MossVLProcessor",), _VISION),
    FamilyFacts("paligemma", "PaliGemma", ("PaliGemmaProcessor",), _IMAGE, _MASKED),
    FamilyFacts("pixtral", "Pixtral, Mistral Small 3.1", ("PixtralProcessor",), _IMAGE, _ANY, ("mistral3",)),
    FamilyFacts("qwen2_audio", "Qwen2-Audio", ("Qwen2AudioProcessor",), ("audio",), ("varlen",)),
    FamilyFacts(
        "qwen2_omni",
        "Qwen2.5-Omni, Qwen3-Omni",
        ("Qwen2_5OmniProcessor", "Qwen3OmniMoeProcessor"),
        _ALL,
        _ROTARY,
        ("qwen2_5_omni", "qwen3_omni"),
    ),
    FamilyFacts(
        "qwen2_vl",
        "Qwen2-VL, Qwen2.5-VL",
        ("Qwen2VLProcessor", "Qwen2_5_VLProcessor"),
        _VISION,
        _ROTARY,
        ("qwen2_5_vl",),
    ),
    FamilyFacts("qwen3_vl", "Qwen3-VL", ("Qwen3VLProcessor",), _VISION, _ROTARY),
    FamilyFacts("video_llava", "Video-LLaVA", ("VideoLlavaProcessor",), _VISION, _ANY),
    FamilyFacts("youtu_vl", "Youtu-VL", ("YoutuVLProcessor",), _IMAGE),
)
"""In the order in which they are listed."""
