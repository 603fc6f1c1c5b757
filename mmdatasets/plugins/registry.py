"""Plugins by name and by processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdatasets.errors import UnknownPluginError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.generic import GenericPlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.plugins.qwen3_vl import Qwen3VLPlugin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# The one registry: what `register_mm_plugin` adds to.
_PLUGINS: dict[str, type[BasePlugin]] = {
    plugin.name: plugin for plugin in (BasePlugin, GenericPlugin, Qwen2VLPlugin, Qwen3VLPlugin)
}
_PLUGINS["qwen2_5_vl"] = Qwen2VLPlugin


def register_mm_plugin(name: str, plugin_class: type[BasePlugin]) -> None:
    """Makes a plugin class available under a name.

    Args:
        name: The name for `get_mm_plugin`.
        plugin_class: A subclass of `BasePlugin`.

    Raises:
        TypeError: If it is no such class.
        ValueError: If the name is taken by another class.
    """
    if not (isinstance(plugin_class, type) and issubclass(plugin_class, BasePlugin)):
        raise TypeError(f"a plugin must be a subclass of mmdatasets.plugins.base.BasePlugin, got {plugin_class!r}")
    known = _PLUGINS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (
        plugin_class.__module__,
        plugin_class.__qualname__,
    ):
        raise ValueError(f"the plugin name {name!r} is taken by {known.__module__}.{known.__qualname__}")
    _PLUGINS[name] = plugin_class


def list_mm_plugins() -> list[str]:
    """The names of all plugins, sorted."""
    return sorted(_PLUGINS)


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
    if name not in _PLUGINS:
        raise UnknownPluginError(f"no plugin is named {name!r}; known: {', '.join(list_mm_plugins())}")
    return _PLUGINS[name](image_token, video_token, audio_token, **fields)  # type: ignore[arg-type]


def auto_plugin(processor: ProcessorMixin | PreTrainedTokenizerBase, **fields: object) -> BasePlugin:
    """Makes the plugin for a processor: its family's, or the generic one, which needs only the processor's own hooks.

    Args:
        processor: The model's processor, or a tokenizer for a text-only model.
        **fields: Fields of the plugin: `options`, `chat_template`, ...
    """
    for kind in type(processor).__mro__:
        for plugin_class in reversed(_PLUGINS.values()):
            if kind.__name__ in plugin_class.processor_classes:
                return plugin_class(processor=processor, **fields)  # type: ignore[arg-type]
    return GenericPlugin(processor=processor, **fields)  # type: ignore[arg-type]
