"""Reading a remote file in few requests and few bytes: what is asked for, and more only where reading goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from fsspec.caching import BaseCache

BLOCK = 64 << 10  # bytes; the headers of most files lie in one
LARGEST_REQUEST = 8 << 20
_MOST_BLOCKS = 3 * LARGEST_REQUEST // BLOCK  # kept at a time
_MOST_STREAMS = 4  # places at which a reader goes on in turn: sound and picture of a video may lie apart


class RangeCache(BaseCache):  # type: ignore[misc] # fsspec has no types
    """What an fsspec file reads through. Each request is twice as long as the last one where that left off.

    A header costs one request of `BLOCK` bytes; a file that is read from beginning to end, of which there is no index,
    costs one for each `LARGEST_REQUEST` bytes and a few more.

    Args:
        fetch: Gives the bytes from an offset up to another one, exactly as many, or raises.
        size: Bytes of the file.
    """

    name = "mmdatasets-ranges"

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__(BLOCK, fetch, size)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._streams: OrderedDict[int, int] = OrderedDict()  # next block -> blocks of the last request

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        start, stop = start or 0, self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return b""
        if stop - start > LARGEST_REQUEST:
            data: bytes = self.fetcher(start, stop)
            return data
        first, last = start // BLOCK, (stop - 1) // BLOCK
        self._load(first, last + 1)
        read = (
            b"".join(self._blocks[index] for index in range(first, last + 1)) if last > first else self._blocks[last]
        )
        return read[start - first * BLOCK : stop - first * BLOCK]

    def _load(self, first: int, end: int) -> None:
        missing = []
        for index in range(first, end):
            if index in self._blocks:
                self._blocks.move_to_end(index)
            else:
                missing.append(index)
        if not missing:
            return
        begin, needed = missing[0], missing[-1] + 1
        window = self._window(begin)
        while needed < begin + window and needed * BLOCK < self.size and needed not in self._blocks:
            needed += 1
        data = self.fetcher(begin * BLOCK, min(needed * BLOCK, self.size))
        for index in range(begin, needed):
            offset = (index - begin) * BLOCK
            self._blocks[index] = data[offset : offset + BLOCK]
        for index in range(first, end):  # the last to go
            self._blocks.move_to_end(index)
        while len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)
        self._streams[needed] = window
        while len(self._streams) > _MOST_STREAMS:
            self._streams.popitem(last=False)

    def _window(self, begin: int) -> int:
        """How many blocks to ask for: more where an earlier request ended here, or was skipped over a little."""
        for after, window in self._streams.items():
            if after <= begin <= after + window:
                del self._streams[after]
                return min(2 * window, LARGEST_REQUEST // BLOCK)
        return 1
