"""Any processor of transformers that can say what a media item becomes in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmdatasets.plugins.base import BasePlugin


@dataclass(eq=False)
class GenericPlugin(BasePlugin):
    """Works through the processor's own `replace_image_token` and its siblings; knows nothing of the family."""

    items_are_independent: ClassVar[bool] = False


@dataclass(eq=False)
class StandardPlugin(BasePlugin):
    """The same for families that are known to treat each item by itself, so that more plans are remembered."""
