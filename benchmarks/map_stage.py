"""The map stage beside the processor: rows/s of `dataset.map`, one process, no cache.

  processor  dataset.map over rows, each through processor.apply_chat_template(messages, tokenize=True,
             return_dict=True), keeping the token ids
  ours       dataset.map(plugin.transform, batched=True)

Both read the same rows from disk, write a mapped dataset and produce the same token ids, which is checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
from common import Result, alternate, conversation, make_rows, parser, report, write_photos
from datasets import Dataset, Image, List, load_from_disk

from mmdatasets import auto_plugin
from mmdatasets.testing import build_processor

if TYPE_CHECKING:
    from transformers import ProcessorMixin

CASES = ("small", "large", "varied")


def measure(case: str, dataset: Dataset, processor: ProcessorMixin, repeats: int) -> list[Result]:
    mapped: dict[str, Dataset] = {}

    def by_processor(row: dict[str, list[dict[str, str]]]) -> dict[str, list[int]]:
        messages = conversation([image["path"] for image in row["images"]])
        output = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        return {"input_ids": output["input_ids"][0]}

    def run_processor() -> None:
        mapped["processor"] = dataset.map(
            by_processor, remove_columns=dataset.column_names, load_from_cache_file=False
        )

    def run_ours() -> None:
        plugin = auto_plugin(processor)  # anew each time: it remembers the sizes that it has met
        features = plugin.features(dataset.features)
        mapped["ours"] = dataset.map(plugin.transform, batched=True, features=features, load_from_cache_file=False)

    seconds = alternate({"processor.apply_chat_template": run_processor, "plugin.transform": run_ours}, repeats)
    if list(mapped["processor"]["input_ids"]) != list(mapped["ours"]["input_ids"]):
        raise AssertionError(f"{case}: the token ids differ")
    return [Result(case, name, len(dataset), times) for name, times in seconds.items()]


def cases(names: Sequence[str], rows: int, large_rows: int) -> Iterator[tuple[str, int, list[tuple[int, int]]]]:
    """Yields (description, images per row, size of every image)."""
    generator = np.random.default_rng(0)
    if "small" in names:
        yield f"{rows} rows of one 1024x768 JPEG", 1, [(1024, 768)] * rows
    if "varied" in names:
        sizes = {(int(w), int(h)) for w, h in generator.integers(400, 1400, size=(2 * rows, 2))}
        yield f"{rows} rows of one JPEG, all sizes different", 1, sorted(sizes)[:rows]
    if "large" in names:
        yield f"{large_rows} rows of four 4000x3000 JPEGs", 4, [(4000, 3000)] * (4 * large_rows)


def on_disk(dataset: Dataset, folder: Path) -> Dataset:
    """Saves the rows and opens them memory-mapped. As `Image`, `save_to_disk` would embed the files."""
    dataset.save_to_disk(str(folder))
    return load_from_disk(str(folder)).cast_column("images", List(Image(decode=False)))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=200, help="rows of one image (default: %(default)s)")
    options.add_argument("--large-rows", type=int, default=16, help="rows of 4 large images (default: %(default)s)")
    options.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    args = options.parse_args()
    datasets.disable_progress_bars()
    processor = build_processor(args.family)
    results: list[Result] = []
    for description, per_row, sizes in cases(args.cases, args.rows, args.large_rows):
        with tempfile.TemporaryDirectory() as name:
            rows = make_rows(write_photos(Path(name) / "photos", sizes), per_row)
            dataset = on_disk(Dataset.from_list(rows), Path(name) / "rows")
            results += measure(description, dataset, processor, args.repeats)
    report(results, "row", as_json=args.json)


if __name__ == "__main__":
    main()
