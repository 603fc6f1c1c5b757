"""Maps a dataset on a Ray cluster into the same Parquet files that `mmdatasets preprocess` writes on one machine.

pip install 'mmdatasets[ray]'
python examples/preprocess_ray.py --tiny                    # offline, on a cluster of this machine
python examples/preprocess_ray.py --address auto --source /shared/chats/chat.jsonl --output /shared/mapped \
    --processor Qwen/Qwen2.5-VL-7B-Instruct

On a real cluster: install mmdatasets on every machine, start Ray there (`ray start --head`, on the others `ray start
--address=HEAD:6379`), and put the source, the media, the output and the cache of `datasets` (HF_HOME) on a file system
that all of them mount under the same path. Run this script on any of them with `--address auto`. If the job or a
machine dies, run it again: files that are finished stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ray
from transformers import AutoProcessor

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.integrations.ray import preprocess_on_ray

PACKAGED_DATA = Path(mmdatasets.testing.__file__).parent / "data" / "chat.jsonl"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor = (
        mmdatasets.testing.build_processor("qwen2_vl") if args.tiny else AutoProcessor.from_pretrained(args.processor)
    )
    plugin = auto_plugin(processor, options=MediaOptions(image_max_pixels=args.max_pixels))
    if args.address is None:
        ray.init(num_cpus=args.num_cpus, include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=args.address)
    report = preprocess_on_ray(
        str(args.source),
        plugin,
        args.output,
        rows_per_shard=args.rows_per_shard,
        embed_media=args.embed_media,
        num_actors=args.num_actors,
    )
    ray.shutdown()
    print(json.dumps(report.to_json(), indent=1))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small offline processor and the packaged conversations")
    parser.add_argument("--processor", default="Qwen/Qwen2.5-VL-7B-Instruct", help="name or directory")
    parser.add_argument("--source", type=Path, default=PACKAGED_DATA, help="data file or folder")
    parser.add_argument("--output", type=Path, default=Path("example-output/ray"), help="folder to write")
    parser.add_argument("--address", help="of a running cluster; 'auto' on one of its machines")
    parser.add_argument("--num-cpus", type=int, help="cores of the local cluster; all of them by default")
    parser.add_argument("--num-actors", type=int, help="processes that map; one for every two cores by default")
    parser.add_argument("--rows-per-shard", type=int, help="rows of the source in each file")
    parser.add_argument("--max-pixels", type=int, default=1_003_520, help="largest area of an image")
    parser.add_argument("--embed-media", action="store_true", help="put the media files into the shards")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
