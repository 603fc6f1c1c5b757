"""What a user does with a hub, in a process of its own: the client reads the hub's address when it is imported.

python hub_client.py FOLDER: maps rows with images, videos and audio, pushes and loads them, and says what it found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from huggingface_hub import HfApi

import mmdatasets
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.processors import build_processor

REPOSITORY = "tester/mapped"


def rows_of(folder: Path) -> Dataset:
    image, video, sound = (str(folder / name) for name in ("a.jpg", "a.mp4", "a.wav"))
    chats = ["<image>What?", "<image><image>Both?", "<video>And this?", "<audio>Heard?", "Nothing?"]
    return Dataset.from_dict(
        {
            "messages": [
                [{"role": "user", "content": text}, {"role": "assistant", "content": "Something."}] for text in chats
            ],
            "images": [[image], [image, image], [], [], []],
            "videos": [[], [], [video], [], []],
            "audios": [[], [], [], [sound], []],
        }
    )


def same(batch: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return batch.keys() == other.keys() and all(torch.equal(batch[name], other[name]) for name in batch)


def by_address(plugin: BasePlugin, folder: Path) -> bool:
    """Whether files of a repository are taken for what they are on the disk."""
    api = HfApi()
    api.create_repo("tester/files", repo_type="dataset")
    for name in ("a.jpg", "a.mp4"):
        api.upload_file(path_or_fileobj=folder / name, path_in_repo=name, repo_id="tester/files", repo_type="dataset")
    chat = [{"role": "user", "content": "<image><video>"}, {"role": "assistant", "content": "This."}]
    batches = []
    for place in (str(folder), "hf://datasets/tester/files"):
        columns = {"messages": [chat], "images": [[f"{place}/a.jpg"]], "videos": [[f"{place}/a.mp4"]]}
        mapped = plugin.transform(columns)
        batches.append(plugin.collator()([{name: column[0] for name, column in mapped.items()}]))
    return same(*batches)


def main() -> None:
    folder = Path(sys.argv[1])
    processor = build_processor("qwen2_5_omni")
    plugin = auto_plugin(processor, options=MediaOptions(image_max_pixels=100_000))
    source = rows_of(folder)
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    batch = plugin.collator()(list(mapped))
    mmdatasets.push_to_hub(mapped, REPOSITORY)
    mmdatasets.push_to_hub(mapped.select([0, 4]), REPOSITORY, split="validation")
    mmdatasets.push_to_hub(mapped.select([4]), REPOSITORY, config_name="texts", split="test")
    mmdatasets.push_to_hub(mapped.select([4]), "tester/referenced", embed_media=False)
    found = {"by address": by_address(plugin, folder)}
    for name in ("a.jpg", "a.mp4", "a.wav"):
        (folder / name).unlink()  # what was pushed must be enough
    loaded = load_dataset(REPOSITORY, split="train")
    found["features"] = loaded.features == mapped.features
    found["batch"] = same(batch, mmdatasets.load_collator(loaded, processor)(list(loaded)))
    streamed = load_dataset(REPOSITORY, split="train", streaming=True)
    found["streamed"] = same(batch, mmdatasets.load_collator(streamed, processor)(list(streamed)))
    ids = [row["input_ids"] for row in loaded]
    found["ids"] = ids == mapped["input_ids"][:] == [row["input_ids"] for row in streamed]
    twice = concatenate_datasets([loaded, loaded.shuffle(seed=1).select([0, 2])])
    found["kept"] = mmdatasets.load_plugin(twice, processor).options.image_max_pixels == 100_000
    other = build_processor("qwen2_5_omni")
    other.image_processor.size = {"shortest_edge": 3136, "longest_edge": 50_176}
    try:
        mmdatasets.load_collator(loaded, other)
    except mmdatasets.errors.MMDatasetsError as error:
        found["refusal"] = str(error)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main()
