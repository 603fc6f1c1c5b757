"""What `MediaOptions.decode_timeout_s` costs: photos decoded in this process, and by the one that can be killed.

Each photo is decoded to the same pixels on both sides, which is checked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import write_photos

from mmdatasets import MediaOptions
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image

_SIZES = ((640, 480), (1920, 1080), (4000, 3000))


def main() -> None:
    """Prints milliseconds per photo, and how long the other process takes to start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    here, bounded = MediaOptions(), MediaOptions(decode_timeout_s=60)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        [tiny] = write_photos(Path(folder) / "tiny", [(32, 32)])
        start = time.perf_counter()
        decode_image(tiny, bounded)
        print(f"start of the process: {time.perf_counter() - start:.1f} s")
        for size in _SIZES:
            paths = write_photos(Path(folder) / f"{size[0]}", [size] * args.photos)
            assert torch.equal(decode_image(paths[0], here), decode_image(paths[0], bounded))
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(args.repetitions):
                for work in (probe_image, decode_image):
                    for name, options in (("here", here), ("bounded", bounded)):
                        start = time.perf_counter()
                        for path in paths:
                            work(path, options)
                        spent = (time.perf_counter() - start) / args.photos
                        found.setdefault((work.__name__, name), []).append(spent * 1e3)
            ms = {key: statistics.median(values) for key, values in found.items()}
            for work in ("probe_image", "decode_image"):
                print(
                    f"{size[0]}x{size[1]} {work}: {ms[work, 'here']:.2f} ms here, {ms[work, 'bounded']:.2f} ms with "
                    f"decode_timeout_s"
                )


if __name__ == "__main__":
    main()
