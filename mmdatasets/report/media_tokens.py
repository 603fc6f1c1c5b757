"""Which tokens of a mapped dataset stand for media, where no processor is at hand to say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.types import MODALITIES

if TYPE_CHECKING:
    import numpy.typing as npt

    from mmdatasets.report.columns import BoolArray, IntArray
    from mmdatasets.types import Modality

_ITEMS = 200
_AGREEING = 2 / 3


class MediaTokenGuess:
    """Finds the media token of each modality: the one that is in spans as often as these say that they have media.

    It counts as found where it explains two of three items, of the first 200 at most.

    Args:
        known: Ids of all media tokens, where they are known.
    """

    def __init__(self, known: Sequence[int] | None = None) -> None:
        self._known = None if known is None else list(known)
        self._seen: Counter[Modality] = Counter()
        self._explained: dict[Modality, Counter[int]] = {modality: Counter() for modality in MODALITIES}

    def learn(
        self, modality: Modality, ids: npt.NDArray[np.int32], starts: IntArray, ends: IntArray, counts: IntArray
    ) -> None:
        """Looks at items, unless it has seen enough.

        Args:
            modality: What they are.
            ids: Token ids.
            starts: `(num_items,)` where the span of each begins.
            ends: `(num_items,)` one past its end.
            counts: `(num_items,)` how many media tokens it says to have.
        """
        if self._known is not None:
            return
        room = _ITEMS - self._seen[modality]
        for start, end, count in zip(
            starts[:room].tolist(), ends[:room].tolist(), counts[:room].tolist(), strict=True
        ):
            self._seen[modality] += 1
            tokens, times = np.unique(ids[start:end], return_counts=True)
            self._explained[modality].update(tokens[times == count].tolist())

    def mask(self, modality: Modality, ids: npt.NDArray[np.int32]) -> BoolArray | None:
        """Which of some token ids are media tokens; `None` where that is not known."""
        if self._known is not None:
            return np.isin(ids, self._known)
        token = self._token(modality)
        mask: BoolArray | None = None if token is None else ids == token
        return mask

    @property
    def not_checked(self) -> list[str]:
        """The modalities whose media tokens are not known."""
        return [
            f"the media tokens in the spans of {modality} items: no single token explains them, and only the "
            "processor knows which tokens they are"
            for modality, seen in self._seen.items()
            if seen and self._token(modality) is None
        ]

    def _token(self, modality: Modality) -> int | None:
        ranked = self._explained[modality].most_common(1)
        if not ranked or ranked[0][1] < _AGREEING * self._seen[modality]:
            return None
        return ranked[0][0]
