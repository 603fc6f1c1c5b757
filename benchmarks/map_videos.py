"""The map stage on videos beside the processor: rows/s of `dataset.map`, one process, no cache.

  processor  dataset.map over rows, each with the frames that the processor's own policy samples, decoded by
             transformers.video_utils.load_video(backend="pyav"), then processor(text, videos), keeping the token ids
  ours       dataset.map(plugin.transform, batched=True)

Both read the same rows, write a mapped dataset and produce the same token ids, which is checked. The files are H.264
of a moving, grainy picture; 2 frames a second are sampled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import datasets
import numpy as np
from common import Result, alternate, parser, report
from datasets import Dataset
from transformers.video_utils import load_video

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing import build_processor

if TYPE_CHECKING:
    from transformers import ProcessorMixin

CASES = {"10s-720p": (10, 1280, 720), "60s-1080p": (60, 1920, 1080)}
RATE, SAMPLED = 30, 2.0
QUESTION, ANSWER = "What happens here?", "A pattern moves to the left."


def write_video(path: Path, seconds: int, width: int, height: int, gop: int = 250) -> str:
    """Writes an H.264 file of a grainy picture that moves."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 12, 2 * width), np.linspace(0, 8, height))
    wide = (110 + 60 * np.sin(x) * np.cos(y))[:, :, None] + generator.integers(-9, 10, size=(height, 2 * width, 3))
    picture = wide.clip(0, 255).astype(np.uint8)
    settings = {"preset": "veryfast", "g": str(gop), "crf": "23"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            left = index * 4 % width
            frame = np.ascontiguousarray(picture[:, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


def conversation() -> list[dict[str, object]]:
    parts = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    return [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ]


def load_sampled(processor: ProcessorMixin, paths: Sequence[str]) -> dict[str, object]:
    """Videos with the processor's own sampling, decoded by transformers, as arguments of the processor's call."""
    sample = partial(processor.video_processor.sample_frames, fps=SAMPLED)
    loaded = [load_video(path, backend="pyav", sample_indices_fn=sample) for path in paths]
    settings = {"video_metadata": [metadata for _, metadata in loaded], "do_sample_frames": False, "fps": SAMPLED}
    return {"videos": [frames for frames, _ in loaded], "videos_kwargs": settings}


def by_processor(processor: ProcessorMixin, row: dict[str, list[str]]) -> dict[str, list[int]]:
    """What one writes with transformers alone."""
    text = [processor.apply_chat_template(conversation())]
    return {"input_ids": processor(text=text, **load_sampled(processor, row["videos"]))["input_ids"][0]}


def measure(case: str, paths: Sequence[str], rows: int, processor: ProcessorMixin, repeats: int) -> list[Result]:
    """The plugin maps `rows` rows, the processor, which is slow, one for each file; both by rows per second."""
    messages = [{"role": "user", "content": f"<video>{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
    many = Dataset.from_list([{"messages": messages, "videos": [paths[i % len(paths)]]} for i in range(rows)])
    few = many.select(range(len(paths)))
    mapped: dict[str, Dataset] = {}

    def run_processor() -> None:
        mapped["processor"] = few.map(
            partial(by_processor, processor), remove_columns=few.column_names, load_from_cache_file=False
        )

    def run_ours() -> None:
        # Anew each time: it remembers the shapes that it has met.
        plugin = auto_plugin(processor, options=MediaOptions(video_fps=SAMPLED))
        mapped["ours"] = many.map(plugin.transform, batched=True, load_from_cache_file=False)

    seconds = alternate({"load_video, processor(...)": run_processor, "plugin.transform": run_ours}, repeats)
    if list(mapped["processor"]["input_ids"]) != list(mapped["ours"].select(range(len(few)))["input_ids"]):
        raise AssertionError(f"{case}: the token ids differ")
    counts = {"load_video, processor(...)": len(few), "plugin.transform": len(many)}
    return [Result(case, name, counts[name], times) for name, times in seconds.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=100, help="rows that the plugin maps (default: %(default)s)")
    options.add_argument("--files", type=int, default=2, help="different files (default: %(default)s)")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--seconds", type=int, help="make the videos this long instead")
    args = options.parse_args()
    datasets.disable_progress_bars()
    processor = build_processor(args.family)
    results: list[Result] = []
    for case in args.cases:
        seconds, width, height = CASES[case]
        with tempfile.TemporaryDirectory() as name:
            paths = [
                write_video(Path(name) / f"{index}.mp4", args.seconds or seconds, width, height)
                for index in range(args.files)
            ]
            results += measure(f"one video of {case} a row", paths, args.rows, processor, args.repeats)
    report(results, "row", as_json=args.json)


if __name__ == "__main__":
    main()
