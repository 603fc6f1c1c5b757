"""Any processor of transformers that can say what a media item becomes in the text."""

from __future__ import annotations

from dataclasses import dataclass

from mmdatasets.plugins.base import BasePlugin


@dataclass(eq=False)
class GenericPlugin(BasePlugin):
    """Works through the processor's own `replace_image_token` and its siblings; knows nothing of the family."""

    name = "generic"
