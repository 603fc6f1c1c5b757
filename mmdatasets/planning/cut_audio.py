"""Whether a processor silently uses but the beginning of audio, where it does not state how much it takes.

Nothing but its counts of tokens tells: from some length on, they do not grow any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from mmdatasets.errors import MediaLimitError, MediaProcessorError

_NOTICED_S = 0.5  # what no processor has less than one token for


class CutAudio:
    """Refuses audio that a processor would cut.

    Args:
        count_tokens: How many tokens the processor makes of so many samples.
        sampling_rate: Samples per second that it takes.
    """

    def __init__(self, count_tokens: Callable[[int], int], sampling_rate: int) -> None:
        self._count = lru_cache(maxsize=1024)(count_tokens)
        self._rate = sampling_rate
        self._noticed = round(_NOTICED_S * sampling_rate)

    def check(self, num_samples: int) -> None:
        """Refuses a number of samples of which the processor uses fewer, by what becomes a token at least.

        Raises:
            MediaLimitError: Saying how long the longest audio is that it uses whole.
        """
        # One check for all shorter audio: the count still grows at a power of two seconds.
        seconds = 2 ** math.ceil(math.log2((num_samples + self._noticed) / self._rate + 1))
        if self._grows(round(seconds * self._rate) - self._noticed) or self._grows(num_samples):
            return
        longest = self._longest(num_samples)
        if num_samples > longest:
            raise MediaLimitError(
                f"the model's processor makes {self._count(num_samples)} tokens of {num_samples / self._rate:.2f} s "
                f"of audio, and as many of {longest / self._rate:.2f} s: it cuts off what is longer. Set "
                "MediaOptions(audio_max_duration_s=...) to what it takes, with long_audio='truncate' or 'chunk'"
            )

    def _grows(self, num_samples: int) -> bool:
        """Whether longer audio becomes more tokens."""
        try:
            longer = self._count(num_samples + self._noticed)
        except MediaProcessorError:
            return True  # it refuses what is too long for it
        return longer > self._count(num_samples)

    def _longest(self, num_samples: int) -> int:
        """The most samples that may be used whole, where this many become as many tokens as more do."""
        whole = self._shortest(self._count(num_samples), num_samples)
        if whole <= 1:
            return num_samples  # any audio becomes as many
        last = self._shortest(self._count(whole - 1), whole - 1)
        return whole + (whole - last) - 1  # the last token is of as many samples as the one before it

    def _shortest(self, num_tokens: int, longest: int) -> int:
        """The fewest samples, up to `longest`, that become so many tokens."""
        low, high = 0, longest
        while high - low > 1:
            middle = (low + high) // 2
            if self._at_least(middle, num_tokens):
                high = middle
            else:
                low = middle
        return high

    def _at_least(self, num_samples: int, num_tokens: int) -> bool:
        try:
            return self._count(num_samples) >= num_tokens
        except MediaProcessorError:
            return False  # too short for one token
