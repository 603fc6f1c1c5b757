"""Plugins by name and by processor. A family whose processor has the standard hooks is one line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.errors import UnknownPluginError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.ernie_vl import ErnieVLPlugin
from mmdatasets.plugins.families import FAMILIES
from mmdatasets.plugins.framewise import FramewisePlugin, InternVLPlugin, VideoLlavaPlugin
from mmdatasets.plugins.generic import GenericPlugin, StandardPlugin
from mmdatasets.plugins.glm4v import GLM4VPlugin
from mmdatasets.plugins.kimi_vl import KimiVLPlugin
from mmdatasets.plugins.minicpmv import MiniCPMVPlugin
from mmdatasets.plugins.minicpmv4_6 import MiniCPMV46Plugin
from mmdatasets.plugins.mllama import MllamaPlugin
from mmdatasets.plugins.moss_vl import MossVLPlugin
from mmdatasets.plugins.paligemma import PaliGemmaPlugin
from mmdatasets.plugins.qwen2_audio import Qwen2AudioPlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin, Qwen3VLPlugin, QwenOmniPlugin
from mmdatasets.plugins.youtu_vl import YoutuVLPlugin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


@dataclass(frozen=True, slots=True)
class Family:
    """What is registered under a name.

    Attributes:
        plugin: The plugin class.
        processors: Names of the processor classes that `auto_plugin` knows the family by.
        aliases: Other names of the family.
    """

    plugin: type[BasePlugin]
    processors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


_PLUGINS: dict[str, type[BasePlugin]] = {
    "base": BasePlugin,
    "generic": GenericPlugin,
    "ernie_vl": ErnieVLPlugin,
    "gemma4": FramewisePlugin,
    "glm4v": GLM4VPlugin,
    "internvl": InternVLPlugin,
    "kimi_vl": KimiVLPlugin,
    "llava_next_video": VideoLlavaPlugin,
    "minicpmv": MiniCPMVPlugin,
    "minicpmv4_6": MiniCPMV46Plugin,
    "mllama": MllamaPlugin,
    "moss_vl": MossVLPlugin,
    "paligemma": PaliGemmaPlugin,
    "qwen2_audio": Qwen2AudioPlugin,
    "qwen2_omni": QwenOmniPlugin,
    "qwen2_vl": Qwen2VLPlugin,
    "qwen3_vl": Qwen3VLPlugin,
    "video_llava": VideoLlavaPlugin,
    "youtu_vl": YoutuVLPlugin,
}
"""The classes of the families that need one of their own; `StandardPlugin` does for the others."""

# The one registry: what `register_mm_plugin` adds to.
_FAMILIES: dict[str, Family] = {
    facts.name: Family(_PLUGINS.get(facts.name, StandardPlugin), facts.processors, facts.aliases) for facts in FAMILIES
}


def register_mm_plugin(
    name: str,
    plugin_class: type[BasePlugin],
    *,
    processors: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> None:
    """Makes a plugin class available under a name.

    Args:
        name: The name for `get_mm_plugin`.
        plugin_class: `StandardPlugin` where the processor's own hooks suffice, else a subclass of `BasePlugin`.
        processors: Names of the processor classes that `auto_plugin` is to know the family by.
        aliases: Other names for `get_mm_plugin`.

    Raises:
        TypeError: If it is no such class.
        ValueError: If a name is taken by another class.
    """
    if not (isinstance(plugin_class, type) and issubclass(plugin_class, BasePlugin)):
        raise TypeError(f"a plugin must be a subclass of mmdatasets.plugins.base.BasePlugin, got {plugin_class!r}")
    taken = _by_name()
    for given in (name, *aliases):
        known = taken.get(given)
        if known is not None and _identity(_FAMILIES[known].plugin) != _identity(plugin_class):
            raise ValueError(f"the plugin name {given!r} is taken by {'.'.join(_identity(_FAMILIES[known].plugin))}")
    old = _FAMILIES.get(name, Family(plugin_class))
    _FAMILIES[name] = Family(plugin_class, tuple(processors) or old.processors, tuple(aliases) or old.aliases)


def _identity(plugin_class: type[BasePlugin]) -> tuple[str, str]:
    # Not the class itself: a notebook cell that is run again defines it anew.
    return plugin_class.__module__, plugin_class.__qualname__


def _by_name() -> dict[str, str]:
    names = {alias: name for name, family in _FAMILIES.items() for alias in family.aliases}
    return names | {name: name for name in _FAMILIES}


def list_mm_plugins() -> list[str]:
    """The names of all plugins, aliases included, sorted."""
    return sorted(_by_name())


def get_mm_plugin(
    name: str,
    image_token: str | None = None,
    video_token: str | None = None,
    audio_token: str | None = None,
    **fields: object,
) -> BasePlugin:
    """Makes the plugin of a family.

    Args:
        name: The family, for example `"qwen2_vl"`.
        image_token: The model's image token; the processor's own when `None`.
        video_token: The same for videos.
        audio_token: The same for audio.
        **fields: Other fields of the plugin: `processor`, `options`, `chat_template`, ...

    Raises:
        UnknownPluginError: If there is no such family. Names the known ones.
    """
    family = _by_name().get(name)
    if family is None:
        raise UnknownPluginError(f"no plugin is named {name!r}; known: {', '.join(list_mm_plugins())}")
    plugin_class = _FAMILIES[family].plugin
    return plugin_class(image_token, video_token, audio_token, family=family, **fields)  # type: ignore[arg-type]


def auto_plugin(processor: ProcessorMixin | PreTrainedTokenizerBase, **fields: object) -> BasePlugin:
    """Makes the plugin for a processor: its family's, or the generic one, which needs only the processor's own hooks.

    Args:
        processor: The model's processor, or a tokenizer for a text-only model.
        **fields: Fields of the plugin: `options`, `chat_template`, ...
    """
    known = {kind: name for name, family in _FAMILIES.items() for kind in family.processors}
    names = (known[kind.__name__] for kind in type(processor).__mro__ if kind.__name__ in known)
    return get_mm_plugin(next(names, "generic"), processor=processor, **fields)  # type: ignore[arg-type]
