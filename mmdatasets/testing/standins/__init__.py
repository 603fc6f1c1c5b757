"""Stand-ins for processors that are code of their checkpoints and in no package.

Each follows the published interface of its family, as its module's docstring describes it, and is written for tests:
plugins are compared with what these make of the same text and media.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdatasets.testing.standins.kimi_vl import build_kimi_vl
from mmdatasets.testing.standins.minicpmv import build_minicpm_o, build_minicpm_v
from mmdatasets.testing.standins.moss_vl import build_moss_vl
from mmdatasets.testing.standins.youtu_vl import build_youtu_vl

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmdatasets.testing.standins.base import StandInProcessor

__all__ = ["build_standin", "list_standins"]

_BUILDERS: dict[str, Callable[[], StandInProcessor]] = {
    "kimi_vl": build_kimi_vl,
    "minicpm_o": build_minicpm_o,
    "minicpm_v": build_minicpm_v,
    "moss_vl": build_moss_vl,
    "youtu_vl": build_youtu_vl,
}


def list_standins() -> list[str]:
    """Returns the names that `build_standin` knows, sorted."""
    return sorted(_BUILDERS)


def build_standin(name: str) -> StandInProcessor:
    """Builds a stand-in, with tokenizer and chat template.

    Args:
        name: One of `list_standins()`.

    Raises:
        KeyError: There is no stand-in of that name.
    """
    if name not in _BUILDERS:
        raise KeyError(f"no stand-in {name!r}: expected one of {', '.join(list_standins())}")
    return _BUILDERS[name]()
