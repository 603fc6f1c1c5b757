"""Mapping a dataset again with the metadata cache beside mapping it without: rows/s of `dataset.map`, one process.

  first time, filling the cache   dataset.map(plugin.transform, batched=True), metadata_cache being an empty directory
  again, without a cache          the same without metadata_cache, as for another model or number of pixels
  again, from the cache           the same with the directory that was filled before; no media file is opened

All make the same token ids, which is checked. Each row has a path of its own: hard links to a few files, which lie in
the page cache. `datasets`' own cache is off.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
from common import QUESTION, Result, alternate, parser, report, write_photos
from datasets import Dataset
from map_videos import SAMPLED, write_video

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.media.cache import MetadataCache
from mmdatasets.testing import build_processor
from mmdatasets.testing.audio import write_audio

COLUMNS = {"image": "images", "video": "videos", "audio": "audios"}
FAMILIES = {"image": "qwen2_vl", "video": "qwen2_vl", "audio": "qwen2_audio"}


def links(originals: Sequence[str], folder: Path, count: int) -> list[str]:
    """As many paths as are asked for, of the same files in turn."""
    folder.mkdir()
    paths = [folder / f"{number}{Path(originals[0]).suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        os.link(originals[number % len(originals)], path)
    return [str(path) for path in paths]


def measure(case: str, modality: str, paths: Sequence[str], folder: Path, repeats: int) -> list[Result]:
    """The three contestants on one item a row."""
    messages = [{"role": "user", "content": f"<{modality}>{QUESTION}"}, {"role": "assistant", "content": "Yes."}]
    rows = Dataset.from_list([{"messages": messages, COLUMNS[modality]: [path]} for path in paths])
    processor = build_processor(FAMILIES[modality])
    filled, mapped = folder / f"{case} filled", {}

    def run(name: str, cache: Path | None) -> None:
        # Anew each time: it remembers the shapes that it has met.
        plugin = auto_plugin(
            processor,
            options=MediaOptions(video_fps=SAMPLED),
            metadata_cache=None if cache is None else str(cache),
        )
        mapped[name] = rows.map(plugin.transform, batched=True, load_from_cache_file=False)

    def run_first() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            run("first", Path(name))

    run("warm-up", filled)
    seconds = alternate(
        {
            "first time, filling the cache": run_first,
            "again, without a cache": lambda: run("without", None),
            "again, from the cache": lambda: run("from", filled),
        },
        repeats,
    )
    if any(list(other["input_ids"]) != list(mapped["from"]["input_ids"]) for other in mapped.values()):
        raise AssertionError(f"{case}: the token ids differ")
    counts = MetadataCache(filled).counts()
    print(f"{case}: {counts.num_bytes / counts.entries:,.0f} bytes of cache for each entry", file=sys.stderr)
    return [Result(case, name, len(rows), times) for name, times in seconds.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1000, help="rows of each case (default: %(default)s)")
    options.add_argument("--seconds", type=int, default=10, help="length of the videos (default: %(default)s)")
    args = options.parse_args()
    datasets.disable_progress_bars()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(folder / "photos", [(1024, 768)] * 3)
        clips, recordings = (
            [write_video(folder / f"clip_{number}.{suffix}", args.seconds, 1280, 720) for number in range(2)]
            for suffix in ("mp4", "mkv")
        )
        speech = [str(write_audio(folder / f"speech_{number}.mp3", duration_s=20, seed=number)) for number in range(2)]
        for case, modality, originals in (
            ("one 1024x768 JPEG a row", "image", photos),
            (f"one MP4 of {args.seconds}s-720p a row", "video", clips),
            (f"one Matroska of {args.seconds}s-720p a row", "video", recordings),
            ("one MP3 of 20 s a row", "audio", speech),
        ):
            # All of a Matroska file must be read.
            paths = links(originals, folder / case, args.rows // 10 if originals is recordings else args.rows)
            results += measure(case, modality, paths, folder, args.repeats)
    report(results, "row", as_json=args.json)


if __name__ == "__main__":
    main()
