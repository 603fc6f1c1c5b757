"""The size arguments that processors have themselves for a budget of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.types import ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_SIDE = 1024
_SHORTEST, _LONGEST, _LONGER = 2**12, 2**16, 2**18
_LEAST, _MOST = 2.5, 6.0
"""Between these is how many times the tokens become with four times the pixels, rounded to whole blocks."""


def own_size(processor: ProcessorMixin | PreTrainedTokenizerBase, modality: Modality) -> Mapping[str, int] | None:
    """The `size` that a processor's call uses for images or videos, where it has a shortest and a longest edge."""
    kwargs = getattr(processor, {"image": "images_kwargs", "video": "videos_kwargs"}[modality], None) or {}
    size = kwargs.get("size") or getattr(getattr(processor, f"{modality}_processor", None), "size", None)
    if size is None or not hasattr(size, "get"):
        return None
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    both = isinstance(shortest, int) and isinstance(longest, int)
    return {"shortest_edge": shortest, "longest_edge": longest} if both else None


def image_size_counts_pixels(processor: ProcessorMixin | PreTrainedTokenizerBase) -> bool:
    """Whether the edges in the `size` of a processor's images are numbers of pixels of the whole image.

    In others they are lengths of sides. The processor is asked: with a longest edge four times as large, an image that
    is larger than either number of pixels becomes about four times as many tokens, but as many as before where
    they are lengths, which are beyond its sides.
    """
    if own_size(processor, "image") is None:
        return False
    try:
        few, many = (_num_tokens(processor, longest) for longest in (_LONGEST, _LONGER))
    except (MediaProcessorError, AttributeError):  # code of model hubs lacks the hooks
        return False
    return _LEAST * few <= many <= _MOST * few


def _num_tokens(processor: ProcessorMixin | PreTrainedTokenizerBase, longest: int) -> int:
    size = {"shortest_edge": _SHORTEST, "longest_edge": longest}
    return ProcessorRunner(processor, {"image": {"size": size}}).plan([ImageInfo(_SIDE, _SIDE)])[0].num_media_tokens
