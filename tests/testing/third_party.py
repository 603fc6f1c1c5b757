"""Plugins as a third party would write them: each overrides `process_messages` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.plugins.registry import get_mm_plugin
from mmdatasets.testing.conformance import Subject
from mmdatasets.testing.models import build_model
from mmdatasets.testing.oracles import ProcessorOracle
from mmdatasets.testing.processors import build_processor


def replaced(plugin, messages, images, processor, prefix=""):
    """The chat with the image's markup, and the prefix of its number, in place of each `<image>`."""
    result, count = [], 0
    for message in messages:
        text = message["content"]
        while "<image>" in text:
            length = num_tokens(plugin, images[count], processor) if plugin.expand_mm_tokens else 1
            count += 1
            markup = f"<|vision_start|>{plugin.image_token * length}<|vision_end|>"
            text = text.replace("<image>", prefix.format(count) + markup, 1)
        result.append({**message, "content": text})
    return result


def num_tokens(plugin, image, processor):
    width, height = Image.open(image).size
    budget = plugin.options.image_max_pixels
    size = processor.image_processor.size
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": budget or size["longest_edge"]}
    patches = processor.image_processor.get_number_of_image_patches(height, width, limits)
    return patches // processor.image_processor.merge_size**2


@dataclass(eq=False)
class SeedStylePlugin(Qwen2VLPlugin):
    """Writes what Qwen's template writes."""

    def process_messages(self, messages, images, videos, audios, processor):
        return replaced(self, messages, images, processor)


@dataclass(eq=False)
class NumberingPlugin(Qwen2VLPlugin):
    """Numbers the images."""

    def process_messages(self, messages, images, videos, audios, processor):
        return replaced(self, messages, images, processor, "Image {}: ")


class NumberingOracle(ProcessorOracle):
    """The processor on typed parts with a text before each image."""

    name = "the processor on numbered images"

    def written(self, chat):
        count, result = 0, []
        for message in chat:
            if isinstance(message["content"], str):
                result.append(message)
                continue
            parts = []
            for part in message["content"]:
                if part["type"] == "image":
                    count += 1
                    parts.append({"type": "text", "text": f"Image {count}: "})
                parts.append(part)
            result.append({**message, "content": parts})
        return result


def subject_of(name: str, oracle: ProcessorOracle | None = None) -> Subject:
    """A registered plugin on Qwen2-VL's processor and model."""
    return Subject(
        name,
        lambda: build_processor("qwen2_vl"),
        lambda processor: build_model("qwen2_vl", processor),
        lambda processor: get_mm_plugin(name, image_token="<|image_pad|>", processor=processor),
        oracle,
    )
