"""Writing a mapped dataset as Parquet: rows/s beside `Dataset.map` and `to_parquet`, and memory.

  map, to_parquet   dataset.map(plugin.transform, batched=True, num_proc=N), then mapped.to_parquet(...)
  preprocess        mmdatasets.preprocess(dataset, plugin, ..., num_proc=N): shards that are finished one by one
  nothing to do     the same call on its finished output, which checks every shard

Both read the same rows from disk and end with Parquet; that the rows are equal is checked. For memory, processes of
their own preprocess a quarter, half and all of `--rows` rows: their peak of all memory (which counts the pages of the
memory-mapped source that are in the page cache anyway) and of what they allocated themselves.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import datasets
from common import ANSWER, QUESTION, Result, alternate, parser, report, write_photos
from datasets import Dataset, Features, List, Value, load_from_disk

from mmdatasets import auto_plugin, preprocess
from mmdatasets.testing import build_processor

ROWS_PER_SHARD = 1000
# Paths as text: as images, `save_to_disk` would embed the files.
FEATURES = Features(
    {"messages": List({"role": Value("string"), "content": Value("string")}), "images": List(Value("string"))}
)


def write_source(folder: Path, paths: list[str], rows: int) -> Dataset:
    """Rows of one photograph each, memory-mapped."""

    def generate() -> object:
        for row in range(rows):
            messages = [
                {"role": "user", "content": f"<image>{QUESTION} ({row})"},
                {"role": "assistant", "content": ANSWER * (1 + row % 4)},
            ]
            yield {"messages": messages, "images": [paths[row % len(paths)]]}

    made = Dataset.from_generator(generate, features=FEATURES, cache_dir=str(folder / "generated"))
    made.save_to_disk(str(folder / "source"))
    return load_from_disk(str(folder / "source"))


def measure_speed(dataset: Dataset, family: str, folder: Path, repeats: int, num_proc: int) -> list[Result]:
    processor = build_processor(family)
    features = auto_plugin(processor).features(dataset.features)
    output, file = folder / "output", folder / "mapped.parquet"

    def by_map() -> None:
        plugin = auto_plugin(processor)  # anew each time: it remembers the sizes that it has met
        mapped = dataset.map(
            plugin.transform,
            batched=True,
            features=features,
            num_proc=num_proc if num_proc > 1 else None,
            load_from_cache_file=False,
        )
        mapped.to_parquet(str(file))

    def by_preprocess() -> None:
        shutil.rmtree(output, ignore_errors=True)
        preprocess(dataset, auto_plugin(processor), output, rows_per_shard=ROWS_PER_SHARD, num_proc=num_proc)

    def again() -> None:
        preprocess(dataset, auto_plugin(processor), output, rows_per_shard=ROWS_PER_SHARD, num_proc=num_proc)

    calls = {"map, to_parquet": by_map, "nothing to do": again, "preprocess": by_preprocess}
    by_preprocess()
    seconds = alternate(calls, repeats)
    cache = str(folder / "cache")
    written = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=cache)
    shards = datasets.load_dataset(str(output), split="train", cache_dir=cache)
    if written.features != shards.features or any(a != b for a, b in zip(written, shards, strict=True)):
        raise AssertionError("the rows differ")
    case = f"{len(dataset)} rows of one 1024x768 JPEG, {num_proc} process(es)"
    return [Result(case, name, len(dataset), times) for name, times in seconds.items()]


def measure_memory(family: str, folder: Path, rows: int) -> None:
    """Runs in a process of its own, and prints what it took."""
    dataset = load_from_disk(str(folder / "source")).select(range(rows))
    plugin = auto_plugin(build_processor(family))
    preprocess(dataset.select(range(512)), plugin, folder / "first", overwrite=True)  # modules, caches, buffers
    start = peak = allocated()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, allocated())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    preprocess(dataset, plugin, folder / f"output-{rows}")
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    print(
        json.dumps({"rows": rows, "rows_per_s": rows / seconds, "start_mb": start, "allocated_mb": peak, **own_peak()})
    )


def status(name: str) -> float:
    """A field of what Linux says of this process, in MB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def allocated() -> float:
    return status("RssAnon")


def own_peak() -> dict[str, float]:
    return {"peak_mb": status("VmHWM")}


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--rows", type=int, default=200_000, help="rows to measure memory with (default: %(default)s)"
    )
    options.add_argument(
        "--speed-rows", type=int, default=4000, help="rows to measure speed with (default: %(default)s)"
    )
    options.add_argument("--photos", type=int, default=200, help="different photographs (default: %(default)s)")
    options.add_argument("--cases", nargs="+", choices=("speed", "memory"), default=("speed", "memory"))
    options.add_argument("--folder", type=Path, help="used by the processes whose memory is measured")
    args = options.parse_args()
    datasets.disable_progress_bars()
    if args.folder:
        measure_memory(args.family, args.folder, args.rows)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "hf"
        dataset = write_source(folder, write_photos(folder / "photos", [(1024, 768)] * args.photos), args.rows)
        results = []
        for num_proc in (1, 2) if "speed" in args.cases else ():
            rows = dataset.select(range(min(args.speed_rows, args.rows)))
            results += measure_speed(rows, args.family, folder, args.repeats, num_proc)
        memory = []
        for rows in (args.rows // 4, args.rows // 2, args.rows) if "memory" in args.cases else ():
            command = [sys.executable, __file__, "--folder", name, "--rows", str(rows), "--family", args.family]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            memory.append(json.loads(done.stdout.splitlines()[-1]))
    if args.json:
        speeds = [{"case": one.case, "contestant": one.contestant, "rate": one.rate} for one in results]
        print(json.dumps({"speed": speeds, "memory": memory}, indent=1))
        return
    report(results, "row", as_json=False)
    print(f"\n{'rows':>10} {'rows/s':>9} {'peak MB':>9} {'allocated MB, start':>20} {'peak':>8}")
    for one in memory:
        columns = f"{one['peak_mb']:9.0f} {one['start_mb']:20.0f} {one['allocated_mb']:8.0f}"
        print(f"{one['rows']:10,} {one['rows_per_s']:9.0f} {columns}")


if __name__ == "__main__":
    main()
