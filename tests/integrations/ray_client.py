"""What a user does on a Ray cluster, in a process of its own: Ray leaves threads and processes behind.

python ray_client.py FOLDER: maps the same rows here and on a cluster of this machine, and says what it found. Then it
maps many rows, to be interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray
from datasets import Dataset

from mmdatasets import auto_plugin, preprocess
from mmdatasets.errors import MediaNotFoundError
from mmdatasets.integrations.ray import map_batches, preprocess_on_ray
from mmdatasets.testing.media import write_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.transforms.row_log import read_row_log

NUM_ROWS = 30


def rows_of(folder: Path) -> Dataset:
    files = [str(write_image(folder / f"{number}.jpg", 90 + 10 * number, 80, seed=number)) for number in range(3)]
    chats = [
        [{"role": "user", "content": f"<image>{number}?"}, {"role": "assistant", "content": "This. " * (number % 5)}]
        for number in range(NUM_ROWS)
    ]
    images = [[files[number % 3]] for number in range(NUM_ROWS)]
    return Dataset.from_dict({"messages": chats, "images": images, "id": list(range(NUM_ROWS))})


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "data").iterdir())}


def main() -> None:
    folder = Path(sys.argv[1])
    source = rows_of(folder)
    plugin = auto_plugin(build_processor("qwen2_vl"))
    preprocess(source, plugin, folder / "here", rows_per_shard=8)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = {}
    report = preprocess_on_ray(source, plugin, folder / "there", rows_per_shard=8)
    found["files"] = contents(folder / "here") == contents(folder / "there")
    found["shards"] = report.shards_written
    (folder / "there" / "data" / "train-00001-of-00004.parquet").unlink()  # as if it had been interrupted
    found["continued"] = preprocess_on_ray(source, plugin, folder / "there", rows_per_shard=8).shards_written
    found["same again"] = contents(folder / "here") == contents(folder / "there")
    mapped = map_batches(ray.data.from_arrow(source.data.table), plugin, source=source.features).take_all()
    expected = source.map(plugin.transform, batched=True, features=plugin.features(source.features)).to_list()
    found["rows"] = sorted(mapped, key=lambda row: row["id"]) == expected
    broken = source.map(lambda row: {**row, "images": ["/no/such.jpg"]} if row["id"] == 11 else row)
    try:
        preprocess_on_ray(broken, plugin, folder / "broken", rows_per_shard=8)
    except MediaNotFoundError as error:
        found["error"] = str(error)
    tolerant = auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=str(folder / "log"))
    found["dropped"] = preprocess_on_ray(broken, tolerant, folder / "tolerant", rows_per_shard=8).counts.outcomes
    found["quarantined"] = read_row_log(folder / "log").select(["row", "reason"]).to_pylist()
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    many = source.select([number % NUM_ROWS for number in range(20_000)])
    preprocess_on_ray(many, plugin, folder / "many", rows_per_shard=50)


if __name__ == "__main__":
    main()
