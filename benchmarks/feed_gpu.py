"""Does the GPU wait? A training step fed by a naive collator around the processor, and by `plugin.collator()`.

The latter reads rows as they were mapped, and rows whose media is materialised.

  photos  12-megapixel JPEGs, a model of the size of SmolVLM-256M
  videos  60 s of 1080p sampled at 2 frames a second, a model of the size of Qwen2.5-VL-3B

Models have their published sizes and random weights, in bfloat16, with a frozen vision tower; their attention is SDPA
(in Qwen2.5-VL's vision tower full attention in all layers). All contestants have the same files, feed the same
rows in the same order, and are checked to make the same token ids and pixels. For each number of workers:

  samples/s  of the steps after the warm-up
  waiting    share of these steps' time that the process waited for the next batch
  worker     the most memory that a worker had to itself (USS)

Without a GPU, `--tiny` runs the same code with tiny models and small files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

import datasets
import psutil
import torch
import transformers
from common import write_photos
from datasets import Dataset, Image, List
from map_videos import SAMPLED, load_sampled, write_video
from PIL import Image as PillowImage
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing import build_model, build_processor
from mmdatasets.testing.models.registry import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from mmdatasets.collate.collator import MultimodalCollator

Row: TypeAlias = dict[str, object]
Collate: TypeAlias = Callable[[list[Row]], dict[str, torch.Tensor]]

QUESTION, ANSWER = "What is there to see?", "A scene that was recorded with an ordinary camera, in plain words."
ENOUGH = 0.03


@dataclass(frozen=True, slots=True)
class Case:
    """What is fed to which model.

    Attributes:
        family: Name of the offline processor.
        modality: What each row has one of.
        batch_size: Rows of a step.
        options: How the media is read, for the plugin.
        adapt: Gives the processor the model's settings.
        build: Makes the model.
        write: Writes as many files as asked for into a folder.
        naive: The collator around the processor.
    """

    family: str
    modality: str
    batch_size: int
    options: MediaOptions
    adapt: Callable[[ProcessorMixin], None]
    build: Callable[[ProcessorMixin], PreTrainedModel]
    write: Callable[[Path, int], list[str]]
    naive: type[NaiveCollator]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured for one contestant with one number of workers; memory in bytes."""

    case: str
    contestant: str
    workers: int
    samples_per_s: float
    waiting: float
    step_s: float
    worker_bytes: int


# ---------------------------------------------------------------------------------------------------- contestants


@dataclass
class NaiveCollator:
    """What one writes with transformers alone: decode and process in the collator."""

    processor: ProcessorMixin

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """The batch, with labels for all text."""
        batch = self.process([str(row["text"]) for row in rows], [str(row["path"]) for row in rows])
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        for token in ("image_token", "video_token"):
            if (name := getattr(self.processor, token, None)) is not None:
                labels[labels == self.processor.tokenizer.convert_tokens_to_ids(name)] = -100
        return {**batch, "labels": labels}

    def process(self, texts: list[str], paths: list[str]) -> dict[str, torch.Tensor]:
        """Decodes the files and calls the processor."""
        raise NotImplementedError


class NaivePhotos(NaiveCollator):
    """Photos are opened with Pillow."""

    def process(self, texts: list[str], paths: list[str]) -> dict[str, torch.Tensor]:
        """The processor's call."""
        images = [[PillowImage.open(path).convert("RGB")] for path in paths]
        return dict(
            self.processor(text=texts, images=images, padding=True, add_special_tokens=False, return_tensors="pt")
        )


class NaiveVideos(NaiveCollator):
    """Videos are decoded by transformers' `load_video`, with the processor's own sampling."""

    def process(self, texts: list[str], paths: list[str]) -> dict[str, torch.Tensor]:
        """The processor's call."""
        videos = load_sampled(self.processor, paths)
        return dict(self.processor(text=texts, **videos, padding=True, return_tensors="pt"))


# ----------------------------------------------------------------------------------------------------------- models


def smolvlm_256m(processor: ProcessorMixin) -> PreTrainedModel:
    """SmolVLM-256M, which has the classes of Idefics3."""
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    config = transformers.Idefics3Config(
        vision_config={**vision, "image_size": 512, "patch_size": 16},
        text_config={
            **text,
            "model_type": "llama",
            "num_key_value_heads": 3,
            "vocab_size": 49280,
            "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
        },
        scale_factor=4,
        image_token_id=processor.image_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    model = transformers.Idefics3ForConditionalGeneration(config)
    model.model.vision_model.requires_grad_(False)
    return model


def qwen2_5_vl_3b(processor: ProcessorMixin) -> PreTrainedModel:
    """Qwen2.5-VL-3B, with full attention in all vision layers: windows are a loop of small calls under SDPA."""
    tokens = token_ids(
        processor,
        image_token_id=processor.image_token,
        video_token_id=processor.video_token,
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": list(range(32)), "tokens_per_second": 2},
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        **tokens,
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    model.model.visual.requires_grad_(False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def like_smolvlm_256m(processor: ProcessorMixin) -> None:
    """Its image settings: 64 tokens for each tile of 512 pixels, photos of at most 2,048."""
    processor.image_processor.size = {"longest_edge": 2048}
    processor.image_processor.max_image_size = {"longest_edge": 512}
    processor.image_seq_len = 64


def as_it_is(processor: ProcessorMixin) -> None:
    """The offline processor has the settings already."""


# ------------------------------------------------------------------------------------------------------------- data


def photos(size: tuple[int, int], folder: Path, count: int) -> list[str]:
    """`count` different photos."""
    with ProcessPoolExecutor() as pool:
        jobs = [pool.submit(write_photos, folder / str(seed), [size], seed) for seed in range(count)]
        return [path for job in jobs for path in job.result()]


def videos(seconds: int, width: int, height: int, folder: Path, count: int) -> list[str]:
    """`count` copies of one file."""
    first = write_video(folder / "0.mp4", seconds, width, height)
    return [first, *(str(shutil.copy(first, folder / f"{number}.mp4")) for number in range(1, count))]


def cases(tiny: bool) -> dict[str, Case]:
    """The two cases, with small files and models if `tiny`."""
    frame = 256 * 28 * 28  # pixels of a frame: 256 tokens for each two
    size, clip = ((320, 240), (2, 128, 96)) if tiny else ((4000, 3000), (60, 1920, 1080))
    return {
        "photos": Case(
            "idefics3",
            "image",
            2 if tiny else 8,
            MediaOptions(),
            as_it_is if tiny else like_smolvlm_256m,
            partial(build_model, "idefics3") if tiny else smolvlm_256m,
            partial(photos, size),
            NaivePhotos,
        ),
        "videos": Case(
            "qwen2_5_vl",
            "video",
            1,
            MediaOptions(video_fps=SAMPLED),
            partial(with_frames_of, frame),
            partial(build_model, "qwen2_5_vl") if tiny else qwen2_5_vl_3b,
            partial(videos, *clip),
            NaiveVideos,
        ),
    }


def with_frames_of(pixels: int, processor: ProcessorMixin) -> None:
    """Frames of at most `pixels`, as one sets it to train on minutes of video."""
    processor.video_processor.size = {**dict(processor.video_processor.size), "longest_edge": pixels}


class Cycle(torch.utils.data.Dataset[Row]):
    """The rows again and again, as many as the steps need."""

    def __init__(self, rows: Sequence[Row] | Dataset, length: int) -> None:
        self.rows, self.length = rows, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Row:
        row: Row = self.rows[index % len(self.rows)]
        return row


# ---------------------------------------------------------------------------------------------------------- measure


class Memory:
    """Watches what the workers have to themselves."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.25):
            for child in own.children(recursive=True):
                try:
                    self.peak = max(self.peak, child.memory_full_info().uss)
                except psutil.Error:
                    continue


def steps_of(model: PreTrainedModel, device: torch.device, loader: DataLoader[Row]) -> Iterator[tuple[float, float]]:
    """Trains, and yields the seconds of each step: those of waiting for the batch, and all."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    model.train()
    batches = iter(loader)
    for _ in range(len(loader)):
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        inputs = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        model(**inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield waited, time.perf_counter() - start


def compare(naive: Collate, ours: Collate, rows: Sequence[Row], mapped: Dataset) -> None:
    """Raises unless both make the same ids and pixels."""
    expected, made = naive([rows[0]]), ours([mapped[0]])
    for name in ("input_ids", "pixel_values", "pixel_values_videos"):
        if name in expected and not torch.equal(expected[name], made[name]):
            raise AssertionError(f"{name} differs from the processor's")


def measure(name: str, case: Case, folder: Path, args: argparse.Namespace) -> list[Outcome]:
    """Feeds the model with each contestant and number of workers."""
    processor = build_processor(case.family)
    case.adapt(processor)
    paths = case.write(folder, args.files)
    parts = [{"type": case.modality}, {"type": "text", "text": QUESTION}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    text = processor.apply_chat_template(chat)
    rows: list[Row] = [{"text": text, "path": path} for path in paths]
    plugin = auto_plugin(processor, options=case.options)
    source = Dataset.from_list([{"messages": chat, f"{case.modality}s": [path]} for path in paths])
    if case.modality == "image":
        source = source.cast_column("images", List(Image(decode=False)))
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    naive, ours = case.naive(processor), plugin.collator()
    stored = mapped.map(plugin.materialise, batched=True, batch_size=1, features=mapped.features)
    compare(naive, ours, rows, mapped)
    compare(naive, ours, rows, stored)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device(device):
        model = case.build(processor)
    model = model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{name}: {count / 1e6:,.0f} million parameters, {mapped[0]['length']:,} tokens a row, on {device}", flush=True
    )
    feeders: dict[str, tuple[Sequence[Row] | Dataset, NaiveCollator | MultimodalCollator]] = {
        "processor in the collator": (rows, naive),
        "plugin.collator": (mapped, ours),
        "the same, materialised": (stored, ours),
    }
    outcomes = []
    for workers in args.workers:
        for contestant, (data, collate) in feeders.items():
            outcome = feed(name, contestant, workers, data, collate, case.batch_size, model, device, args)
            print(line(outcome), flush=True)
            outcomes.append(outcome)
    return outcomes


def feed(
    name: str,
    contestant: str,
    workers: int,
    data: Sequence[Row] | Dataset,
    collate: NaiveCollator | MultimodalCollator,
    batch_size: int,
    model: PreTrainedModel,
    device: torch.device,
    args: argparse.Namespace,
) -> Outcome:
    """Trains some steps with one feeder. The warm-up consumes what the workers prepared before the first step."""
    warm_up = max(args.warm_up, 2 * workers)
    rows = Cycle(data, (warm_up + args.steps) * batch_size)
    loader = DataLoader(rows, batch_size, num_workers=workers, collate_fn=collate, pin_memory=device.type == "cuda")
    with Memory() as memory:
        seconds = list(steps_of(model, device, loader))[warm_up:]
    waited, whole = (sum(column) for column in zip(*seconds, strict=True))
    rate = len(seconds) * batch_size / whole
    busy = (whole - waited) / len(seconds)
    return Outcome(name, contestant, workers, rate, waited / whole, busy, memory.peak)


def line(outcome: Outcome) -> str:
    """A row of the table."""
    return (
        f"{outcome.case:7} {outcome.contestant:26} {outcome.workers:3} workers {outcome.samples_per_s:8.2f} samples/s "
        f"{outcome.waiting:7.1%} waiting {outcome.step_s * 1000:8.0f} ms/step {outcome.worker_bytes / 2**20:7,.0f} MiB"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """For each contestant, the fewest workers with which waiting is at most 3% of the time."""
    lines = []
    for case, contestant in dict.fromkeys((one.case, one.contestant) for one in outcomes):
        tried = [one for one in outcomes if (one.case, one.contestant) == (case, contestant)]
        enough = [one.workers for one in tried if one.waiting <= ENOUGH]
        told = f"{min(enough)} workers" if enough else f"more than {max(one.workers for one in tried)} workers"
        lines.append(f"{case:7} {contestant:26} waits at most {ENOUGH:.0%} with {told}")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", nargs="+", choices=("photos", "videos"), default=["photos", "videos"])
    options.add_argument("--workers", nargs="+", type=int, default=[2, 4, 8, 12], help="(default: %(default)s)")
    options.add_argument("--steps", type=int, default=30, help="measured steps (default: %(default)s)")
    options.add_argument("--warm-up", type=int, default=5, help="steps before, at least 2 per worker")
    options.add_argument("--files", type=int, default=16, help="different files (default: %(default)s)")
    options.add_argument("--tiny", action="store_true", help="tiny models and small files")
    options.add_argument("--json", type=Path, help="also write the outcomes here")
    args = options.parse_args()
    datasets.disable_progress_bars()
    outcomes: list[Outcome] = []
    for name in args.cases:
        with TemporaryDirectory() as folder:
            outcomes += measure(name, cases(args.tiny)[name], Path(folder), args)
        if args.json:
            args.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=1))
    print(summary(outcomes))


if __name__ == "__main__":
    main()
