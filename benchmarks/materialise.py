"""Collating originals beside collating what `plugin.materialise` stored: time per row, read from the dataset on disk.

  originals       plugin.collator()(rows) of the mapped dataset
  quality=90      the same of mapped.map(plugin.materialise, fn_kwargs={"quality": 90}), which changes pixels
  processor alone  what the processor does with what is stored, once that is read: nothing can be faster
  plugin.materialise  the same of mapped.map(plugin.materialise): the batches are checked to be equal, bit for bit

Photos are 4000x3000 JPEGs that the processor resizes to at most 1,003,520 pixels, videos 60 s of 1080p of which 16 or
32 frames of at most 200,704 pixels are taken, audio is 30 s of MP3. The lines below the table say how long
materialising takes, and how many bytes a row's media has: as files, and in Parquet files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import torch
from common import Result, alternate, parser, report, write_photos
from datasets import Dataset
from map_videos import write_video

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.features import PARQUET_OPTIONS
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing import build_processor, write_audio

IMAGE_PIXELS, FRAME_PIXELS = 1_003_520, 200_704
COLUMNS = {"image": "images", "video": "videos", "audio": "audios"}
CASES = ["photos", "video-16", "video-32", "audio"]


@dataclass(frozen=True, slots=True)
class Store:
    """What a way of storing a row's media costs.

    Attributes:
        case: What is stored.
        name: The way.
        seconds: How long a row takes once.
        file_bytes: Bytes of a row's media.
        parquet_bytes: Bytes of a row in a Parquet file of 4 rows with the same media each.
    """

    case: str
    name: str
    seconds: float
    file_bytes: float
    parquet_bytes: float


def write_media(case: str, folder: Path, rows: int, seconds: int | None, size: tuple[int, int]) -> list[str]:
    """Writes the files of a case; videos are copies of one."""
    if case == "photos":
        return write_photos(folder, [size] * rows)
    if case == "audio":
        return [str(write_audio(folder / f"{seed}.mp3", 44_100, seconds or 30, 2, seed)) for seed in range(rows)]
    folder.mkdir()
    first = write_video(folder / "0.mp4", seconds or 60, 1920, 1080)
    return [first, *(str(shutil.copy(first, folder / f"{index}.mp4")) for index in range(1, rows))]


def plugin_of(case: str, family: str, pixels: tuple[int, int]) -> BasePlugin:
    """The plugin, with a budget as one trains with it."""
    if case == "audio":
        return auto_plugin(build_processor("qwen2_audio"))
    frames = int(case.rpartition("-")[2]) if "-" in case else None
    options = MediaOptions(image_max_pixels=pixels[0], video_max_pixels=pixels[1], video_num_frames=frames)
    return auto_plugin(build_processor(family), options=options)


def measure(
    case: str, paths: Sequence[str], family: str, folder: Path, repeats: int, pixels: tuple[int, int]
) -> tuple[list[Result], list[Store]]:
    plugin = plugin_of(case, family, pixels)
    modality = {"photos": "image"}.get(case, case.partition("-")[0])
    messages = [{"role": "user", "content": f"<{modality}>What is it?"}, {"role": "assistant", "content": "A test."}]
    source = Dataset.from_list([{"messages": messages, COLUMNS[modality]: [path]} for path in paths])
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    mapped_sets, stores = {"originals": mapped}, []
    for name, settings in (("quality=90", {"quality": 90}), ("plugin.materialise", {})):
        start = time.perf_counter()
        made = mapped.map(plugin.materialise, batched=True, batch_size=4, fn_kwargs=settings)
        mapped_sets[name] = made
        stores.append(store_of(case, name, time.perf_counter() - start, made, folder))
    originals = sum(Path(path).stat().st_size for path in paths) / len(paths)
    stores.insert(0, Store(case, "originals", 0.0, originals, 0.0))
    collator = plugin.collator()
    batches: dict[str, list[Mapping[str, torch.Tensor]]] = {}

    def collate(name: str) -> None:
        batches[name] = [collator([mapped_sets[name][index]]) for index in range(len(paths))]

    media = [collator.media_of_row(row, index) for index, row in enumerate(mapped_sets["plugin.materialise"])]
    read = [plugin.engine.media.load(row.items, row.plans) for row in media]

    def process() -> None:
        for row in read:
            plugin.process_media(plugin.engine, [row])

    contestants = {name: partial(collate, name) for name in ("originals", "quality=90")}
    contestants |= {"processor alone": process, "plugin.materialise": partial(collate, "plugin.materialise")}
    seconds = alternate(contestants, repeats)
    for ours, theirs in zip(batches["plugin.materialise"], batches["originals"], strict=True):
        for key, value in theirs.items():
            if not torch.equal(ours[key], value):
                raise AssertionError(f"{case}: {key} differs")
    return [Result(case, name, len(paths), times) for name, times in seconds.items()], stores


def store_of(case: str, name: str, seconds: float, made: Dataset, folder: Path) -> Store:
    media = [num_bytes([value for column, value in row.items() if column != "media_info"]) for row in made]
    path = folder / f"{case}.parquet"
    repeated = datasets.concatenate_datasets([made] * 4).flatten_indices()
    pq.write_table(repeated.data.table, path, **PARQUET_OPTIONS)
    return Store(case, name, seconds / len(made), sum(media) / len(media), path.stat().st_size / len(repeated))


def num_bytes(value: object) -> int:
    """Bytes of all files in a column's value."""
    if isinstance(value, list):
        return sum(map(num_bytes, value))
    return len(value["bytes"] or b"") if isinstance(value, dict) else 0


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=4, help="rows, with one item each (default: %(default)s)")
    options.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    options.add_argument("--seconds", type=int, help="make videos and audio this long instead")
    options.add_argument("--size", default="4000x3000", metavar="WxH", help="pixels of a photo (default: %(default)s)")
    options.add_argument(
        "--pixels",
        nargs=2,
        type=int,
        default=[IMAGE_PIXELS, FRAME_PIXELS],
        metavar=("PHOTO", "FRAME"),
        help="most pixels that the processor makes of each (default: %(default)s)",
    )
    args = options.parse_args()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # as in the workers of a DataLoader
    width, height = map(int, args.size.split("x"))
    results: list[Result] = []
    stores: list[Store] = []
    for case in args.cases:
        with tempfile.TemporaryDirectory() as name:
            paths = write_media(case, Path(name) / "media", args.rows, args.seconds, (width, height))
            found = measure(case, paths, args.family, Path(name), args.repeats, tuple(args.pixels))
            results += found[0]
            stores += found[1]
    report(results, "row", as_json=args.json)
    if not args.json:
        for store in stores:
            once = f"{1000 * store.seconds:8.0f} ms a row, once" if store.seconds else ""
            parquet = f"{store.parquet_bytes:12,.0f} B in Parquet, 4 rows alike" if store.parquet_bytes else ""
            print(f"{store.case:12} {store.name:20} {store.file_bytes:12,.0f} B a row {parquet} {once}")


if __name__ == "__main__":
    main()
