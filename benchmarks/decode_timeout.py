"""What `MediaOptions.decode_timeout_s` costs: photos decoded in this process, and by the one that can be killed.

Each photo is decoded to the same pixels on both sides, which is checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import write_photos

from mmdatasets import MediaOptions
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image

_HERE, _BOUNDED = MediaOptions(), MediaOptions(decode_timeout_s=60)
_CONTESTANTS = {"here": _HERE, "decode_timeout_s": _BOUNDED}


def main() -> None:
    """Prints milliseconds per photo, and how long the other process takes to start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1920x1080", "4000x3000"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        [tiny] = write_photos(Path(folder) / "tiny", [(32, 32)])
        start = time.perf_counter()
        decode_image(tiny, _BOUNDED)
        start_s = time.perf_counter() - start
        results = [
            {"case": f"{work.__name__} {size}", "contestant": name, "ms": milliseconds}
            for size in args.sizes
            for work, found in _measure(Path(folder), size, args.photos, args.repetitions).items()
            for name, milliseconds in found.items()
        ]
    if args.json:
        print(json.dumps({"start_s": start_s, "results": results}))
        return
    print(f"start of the process: {start_s:.1f} s")
    for here, bounded in zip(results[::2], results[1::2], strict=True):
        print(f"{here['case']}: {here['ms']:.2f} ms here, {bounded['ms']:.2f} ms with decode_timeout_s")


def _measure(
    folder: Path, size: str, num_photos: int, repetitions: int
) -> dict[Callable[..., object], dict[str, float]]:
    """Milliseconds per photo of each piece of work, by each contestant: the median repetition."""
    width, height = map(int, size.split("x"))
    paths = write_photos(folder / size, [(width, height)] * num_photos)
    for path in paths:
        assert torch.equal(decode_image(path, _HERE), decode_image(path, _BOUNDED))
    found: dict[Callable[..., object], dict[str, list[float]]] = {}
    for _ in range(repetitions):
        for work in (probe_image, decode_image):
            for name, options in _CONTESTANTS.items():
                times = found.setdefault(work, {}).setdefault(name, [])
                times.append(_time(work, paths, options) / num_photos * 1e3)
    return {
        work: {name: statistics.median(times) for name, times in by_name.items()} for work, by_name in found.items()
    }


def _time(work: Callable[..., object], paths: Sequence[str], options: MediaOptions) -> float:
    start = time.perf_counter()
    for path in paths:
        work(path, options)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
