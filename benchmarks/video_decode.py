"""Decoding the sampled frames of a video: frames/s from file to tensor, and the memory that it takes.

  sequential PyAV  every frame decoded, the sampled ones kept, as transformers.video_utils.load_video does
  torchcodec       VideoDecoder(seek_mode="exact").get_frames_at; where it works
  decord           VideoReader.get_batch; where it is installed
  decode_frames    mmdatasets.media.video.decode_frames

The frames are spread evenly over a 60 s H.264 video of 1280x720 pixels and 30 frames a second, with a keyframe every
12 or 250 frames. All contestants decode with one thread, and give the same pixels, which is checked.

Memory is what the peak of a process is above what it holds before it decodes, when it has decoded another, small video
already. It is given in MB beyond the size of the frames, and in multiples of that; "decoder alone" keeps no frame.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from common import Result, alternate, parser, report
from map_videos import write_video

from mmdatasets.media.video import decode_frames
from mmdatasets.options import MediaOptions
from mmdatasets.types import FramePlan

if TYPE_CHECKING:
    import numpy.typing as npt

    Frames = npt.NDArray[np.uint8]

SECONDS, WIDTH, HEIGHT, RATE = 60, 1280, 720, 30
DECODER = "decoder alone"
COUNTS, GOPS = (8, 16, 64, 128), (12, 250)


def by_sequential_pyav(path: str, indices: Sequence[int]) -> Frames:
    wanted, frames = set(indices), []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index > indices[-1]:
                break
            if index in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def by_torchcodec(path: str, indices: Sequence[int]) -> Frames:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    frames: Frames = decoder.get_frames_at(list(indices)).data.numpy()
    return frames


def by_decord(path: str, indices: Sequence[int]) -> Frames:
    import decord

    frames: Frames = decord.VideoReader(path, num_threads=1).get_batch(list(indices)).asnumpy()
    return frames


def by_ours(path: str, indices: Sequence[int]) -> Frames:
    frames: Frames = decode_frames(path, FramePlan(tuple(indices)), MediaOptions()).permute(0, 2, 3, 1).numpy()
    return frames


def by_nothing(path: str, indices: Sequence[int]) -> None:
    """Decodes a few seconds in sequence and keeps no frame: what the decoder itself takes."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for _ in itertools.islice(container.decode(stream), 3 * RATE):
            pass


CONTESTANTS: dict[str, Callable[[str, Sequence[int]], Frames]] = {
    "sequential PyAV": by_sequential_pyav,
    "torchcodec": by_torchcodec,
    "decord": by_decord,
    "decode_frames": by_ours,
}
MEASURED: dict[str, Callable[[str, Sequence[int]], object]] = {DECODER: by_nothing, **CONTESTANTS}


def usable(path: str) -> list[str]:
    """The contestants that can decode at all here."""
    names = []
    for name, decode in CONTESTANTS.items():
        try:
            decode(path, [0])
        except (ImportError, RuntimeError) as error:
            print(f"without {name}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        else:
            names.append(name)
    return names


def status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"the system does not tell {name}")
    return int(found[1]) * 1024


def print_memory(name: str, other: str, path: str, count: int) -> None:
    """Run in a fresh process: prints what decoding adds to the memory of a process that has decoded before."""
    decode = MEASURED[name]
    decode(other, spread(2, other))
    indices = spread(count, path)
    gc.collect()
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    frames = decode(path, indices)
    print(json.dumps(status_bytes("VmHWM") - before))
    del frames


def memory_of(name: str, other: str, path: str, count: int) -> int:
    command = [sys.executable, __file__, "--memory-of", name, other, path, str(count)]
    found: int = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found


def memory_table(folder: Path, gops: Sequence[int], counts: Sequence[int], seconds: int, repeats: int) -> None:
    """Prints the memory of each contestant, the least of as many processes as there are repetitions."""
    other = write_video(folder / "other.mp4", 2, 320, 240)
    for gop in gops:
        path = write_video(folder / f"memory_{gop}.mp4", seconds, WIDTH, HEIGHT, gop)
        names = usable(path)
        for count in [0, *counts]:
            size = count * WIDTH * HEIGHT * 3
            case = f"{count} frames, GOP {gop}, {size / 1e6:.0f} MB"
            for name in names if count else [DECODER]:
                taken = min(memory_of(name, other, path, count) for _ in range(repeats))
                ratio = f"{taken / size:.2f}x" if size else ""
                print(f"{case:34} {name:16} {(taken - size) / 1e6:6.1f} MB {ratio}", flush=True)


def spread(count: int, path: str) -> list[int]:
    with av.open(path) as container:
        num_frames = container.streams.video[0].frames
    return [int(index) for index in np.linspace(0, num_frames - 1, count).round()]


def measure(path: str, count: int, gop: int, names: Sequence[str], repeats: int) -> list[Result]:
    indices = spread(count, path)
    expected = by_sequential_pyav(path, indices)
    for name in names:
        if not np.array_equal(CONTESTANTS[name](path, indices), expected):
            raise AssertionError(f"{name}: {count} frames at a GOP of {gop} differ from those of a sequential decode")
    del expected

    def call(name: str) -> Callable[[], object]:
        return lambda: CONTESTANTS[name](path, indices)

    seconds = alternate({name: call(name) for name in names}, repeats)
    return [Result(f"{count} frames, GOP {gop}", name, count, times) for name, times in seconds.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="frames (default: %(default)s)")
    options.add_argument("--gops", nargs="+", type=int, default=GOPS, help="keyframe distances (default: %(default)s)")
    options.add_argument("--seconds", type=int, default=SECONDS, help="length of the video (default: %(default)s)")
    options.add_argument("--memory", action="store_true", help="measure memory, not time")
    options.add_argument("--memory-of", nargs=4, metavar=("WHO", "OTHER", "PATH", "COUNT"), help="print one alone")
    args = options.parse_args()
    if args.memory_of:
        name, other, path, count = args.memory_of
        print_memory(name, other, path, int(count))
        return
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        if args.memory:
            memory_table(Path(folder), args.gops, args.counts, args.seconds, args.repeats)
            return
        for gop in args.gops:
            path = write_video(Path(folder) / f"{gop}.mp4", args.seconds, WIDTH, HEIGHT, gop)
            names = usable(path)
            for count in args.counts:
                results += measure(path, count, gop, names, args.repeats)
    report(results, "frame", as_json=args.json)


if __name__ == "__main__":
    main()
