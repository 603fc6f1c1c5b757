"""Packed against padded training, and attention by lengths against attention by a mask, on a GPU in bfloat16.

A model of the size of Qwen2.5-VL-3B (random weights, frozen vision tower, gradient checkpointing) trains on chats of
log-normal length, most of them with one to three photos. Batches are made beforehand; a step is forward, backward and
AdamW, and counts the tokens that are no padding:

  padded, sdpa             rows in random order, `--batch-size` of them
  padded, grouped, sdpa    rows of similar length together
  packed, block_mask, sdpa `plugin.packed_collator(attention="block_mask")`
  packed, varlen, KERNEL   `plugin.packed_collator(attention="varlen")`; KERNEL is flash-attn where it is installed,
                           else PyTorch's own `varlen_attn`

Before, the same packed batch goes through a model of few layers: its loss and gradients by lengths, by a mask, and row
by row, each against the rows one by one in float32. In bfloat16, two ways of SDPA (a mask; row by row) differ by
rounding; lengths are to differ no more than these do.

Without a GPU, `--tiny` runs the same code with a tiny model; attention by lengths is then a loop over sequences.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import cycle, islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from common import write_photos
from datasets import Dataset, Image, List
from feed_gpu import qwen2_5_vl_3b
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mmdatasets import auto_plugin
from mmdatasets.testing import build_model, build_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from mmdatasets.collate.batch import Batch
    from mmdatasets.plugins.base import BasePlugin

SIZES = [(448, 448), (640, 480), (800, 600), (1024, 768)]
TINY_SIZES = [(84, 56), (112, 84)]
WORDS = (
    "photo",
    "shows",
    "a",
    "cat",
    "that",
    "sits",
    "on",
    "the",
    "table",
    "and",
    "looks",
    "at",
    "whoever",
    "took",
    "it",
)
LOOP = "varlen_attn"


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured for one way of making batches."""

    contestant: str
    steps: int
    fill: float
    tokens_per_s: float
    step_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one way of computing a batch is from another: the loss, relatively, and the gradients."""

    what: str
    loss: float
    worst_cosine: float
    gradient: float


# -------------------------------------------------------------------------------------------------------- attention


def attend_by_lengths(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """PyTorch's attention over sequences of given lengths, as an attention of transformers."""
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("the batch has no lengths: it is not a packed one, or they did not reach the attention")
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    parts = [part.transpose(1, 2).flatten(0, 1) for part in (query, key, value)]  # (length, heads, width)
    kernel = _kernel if query.is_cuda else _loop
    return kernel(*parts, cu_seq_lens_q, int(max_length_q), scaling).unflatten(0, (query.shape[0], -1)), None


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    # Causality was `is_causal` before it became a window without tokens ahead; the scale came later, too.
    known = inspect.signature(varlen_attn).parameters
    settings: dict[str, object] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    if "scale" in known:
        settings["scale"] = scale
    elif scale is not None:
        query = query * (scale * query.shape[-1] ** 0.5)
    made: torch.Tensor = varlen_attn(query, key, value, ends, ends, longest, longest, **settings)
    return made


def _loop(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    rows = []
    for start, end in pairwise(ends.tolist()):
        own = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        rows.append(scaled_dot_product_attention(*own, is_causal=True, scale=scale)[0].transpose(0, 1))
    return torch.cat(rows)


def kernel_name(device: torch.device) -> str:
    """The attention by lengths that there is."""
    return "flash_attention_2" if device.type == "cuda" and find_spec("flash_attn") else LOOP


# ------------------------------------------------------------------------------------------------------------- data


def make_rows(folder: Path, count: int, mean: float, spread: float, longest: int, tiny: bool) -> Dataset:
    """Chats of log-normal length: an answer of that many words, and 0 to 3 photos before the question."""
    generator = np.random.default_rng(0)
    paths = write_photos(folder, (TINY_SIZES if tiny else SIZES) * 2)
    rows = []
    for words in np.clip(generator.lognormal(mean, spread, count), 8, longest).astype(int).tolist():
        chosen = generator.choice(paths, generator.choice(4, p=[0.3, 0.4, 0.2, 0.1]), replace=False).tolist()
        answer = " ".join(generator.choice(WORDS, words).tolist())
        question = {"role": "user", "content": "<image>" * len(chosen) + "What is there to see?"}
        rows.append({"messages": [question, {"role": "assistant", "content": answer}], "images": chosen})
    return Dataset.from_list(rows).cast_column("images", List(Image(decode=False)))


def batches_of(
    plugin: BasePlugin, mapped: Dataset, model: PreTrainedModel, args: argparse.Namespace, kernel: str
) -> Iterator[tuple[str, str, list[Batch]]]:
    """What each contestant is fed: its name, the attention that it runs, and its batches."""
    lengths, size = np.array(mapped["length"]), args.batch_size
    order = np.random.default_rng(1).permutation(len(mapped))
    padded = plugin.collator(padding_side="right", dtype=model.dtype)
    for name, rows in (("padded", order), ("padded, grouped", order[np.argsort(-lengths[order], kind="stable")])):
        starts = np.random.default_rng(2).permutation(np.arange(0, len(rows), size))[: args.steps]
        chosen = [[mapped[int(row)] for row in rows[start : start + size]] for start in starts]
        yield name, "sdpa", [padded(own) for own in chosen]
    packed = plugin.packer(max_length=args.max_length).pack(mapped).shuffle(seed=3)
    packed = packed.select(range(min(args.steps, len(packed))))
    for attention, implementation in (("block_mask", "sdpa"), ("varlen", kernel)):
        collate = plugin.packed_collator(
            running(model, implementation).config,
            attention=attention,  # type: ignore[arg-type]
            dtype=model.dtype,
        )
        collate.check_model(model)
        yield f"packed, {attention}", implementation, [collate([row]) for row in packed]


def running(model: PreTrainedModel, implementation: str) -> PreTrainedModel:
    """The model with another attention in its text part; the vision tower keeps SDPA."""
    model.set_attn_implementation({"text_config": implementation})
    return model


# ------------------------------------------------------------------------------------------------------ differences


def differences(
    plugin: BasePlugin, mapped: Dataset, build: Callable[[], PreTrainedModel], kernel: str, args: argparse.Namespace
) -> list[Difference]:
    """One packed row by each way of computing it, and its rows one by one in float32."""
    packer = plugin.packer(max_length=args.max_length)
    rows = [mapped[index] for index in next(own for own in packer.plan(mapped) if len(own) > 2)]
    model = build()
    exact = copy.deepcopy(model).float()
    truth = gradients_of(exact, one_by_one(plugin, exact, rows))
    del exact
    by_row = gradients_of(model, one_by_one(plugin, model, rows))
    found = {"sdpa, row by row": by_row}
    for attention, implementation in (("block_mask", "sdpa"), ("varlen", kernel)):
        config = running(model, implementation).config
        collate = plugin.packed_collator(config, attention=attention, flatten=True, dtype=model.dtype)  # type: ignore[arg-type]
        found[f"{implementation}, {attention}"] = gradients_of(model, [(collate(rows), 1.0)])
    results = [difference(f"{name}, to float32 row by row", made, truth) for name, made in found.items()]
    mask, lengths = list(found)[1:]
    results.append(difference(f"{mask}, to sdpa row by row", found[mask], by_row))
    results.append(difference(f"{lengths}, to sdpa row by row", found[lengths], by_row))
    return results


def one_by_one(
    plugin: BasePlugin, model: PreTrainedModel, rows: Sequence[Mapping[str, object]]
) -> list[tuple[Batch, float]]:
    """The rows, each a batch, with its part of the tokens that are trained."""
    running(model, "sdpa")
    collate = plugin.collator(dtype=model.dtype)
    batches = [collate([row]) for row in rows]
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    return [(batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True)]


def gradients_of(
    model: PreTrainedModel, batches: Sequence[tuple[Batch, float]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The weighted loss of batches, and its gradients on the CPU in float32."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for batch, weight in batches:
        loss = model(**inputs_of(batch, model)).loss * weight
        loss.backward()
        total += loss.item()
    grads = {name: one.grad.float().cpu() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return total, grads


def difference(
    what: str, made: tuple[float, dict[str, torch.Tensor]], truth: tuple[float, dict[str, torch.Tensor]]
) -> Difference:
    """How far one is from the other."""
    (loss, ours), (expected, theirs) = made, truth
    cosines = [torch.cosine_similarity(ours[name].flatten(), theirs[name].flatten(), dim=0).item() for name in theirs]
    off = sum((ours[name] - theirs[name]).square().sum() for name in theirs)
    size = sum(grad.square().sum() for grad in theirs.values())
    return Difference(what, abs(loss - expected) / expected, min(cosines), float((off / size) ** 0.5))


# ------------------------------------------------------------------------------------------------------------ speed


def inputs_of(batch: Batch, model: PreTrainedModel) -> dict[str, object]:
    """A batch on the model's device; its media is in the model's dtype already."""
    return {"use_cache": False, **copy.copy(batch).to(model.device, non_blocking=True)}


def train(name: str, model: PreTrainedModel, batches: Sequence[Batch], args: argparse.Namespace) -> Speed:
    """Trains on the batches, again and again, and times the steps after the warm-up."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    model.train()
    seconds, counts, computed = [], [], []
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for batch in islice(cycle(batches), args.warm_up + args.steps):
        start = time.perf_counter()
        model(**inputs_of(batch, model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        mask = batch.get("attention_mask")
        whole = batch["input_ids"].numel()
        counts.append(int(mask.sum()) if mask is not None and mask.ndim == 2 else whole)
        computed.append(whole)
    timed = slice(args.warm_up, None)
    tokens, took = sum(counts[timed]), sum(seconds[timed])
    peak = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else 0
    return Speed(name, args.steps, tokens / sum(computed[timed]), tokens / took, took / args.steps, peak)


# ------------------------------------------------------------------------------------------------------------- main


def built(processor: ProcessorMixin, device: torch.device, tiny: bool, layers: int | None = None) -> PreTrainedModel:
    """The model, in bfloat16 on a GPU."""
    with torch.device(device):
        torch.manual_seed(0)
        model = build_model("qwen2_5_vl", processor) if tiny else qwen2_5_vl_3b(processor)
    if layers is not None:
        del model.model.language_model.layers[layers:]
        model.config.get_text_config().num_hidden_layers = layers
    return model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=512, help="chats (default: %(default)s)")
    options.add_argument("--mean", type=float, default=5.5, help="mean of the logarithm of an answer's words")
    options.add_argument("--spread", type=float, default=0.9, help="its standard deviation")
    options.add_argument("--max-length", type=int, default=8192, help="tokens of a packed row")
    options.add_argument("--batch-size", type=int, default=8, help="rows of a padded batch (default: %(default)s)")
    options.add_argument("--steps", type=int, default=20, help="measured steps (default: %(default)s)")
    options.add_argument("--warm-up", type=int, default=3, help="steps before (default: %(default)s)")
    options.add_argument("--layers", type=int, default=4, help="text layers of the model that is compared")
    options.add_argument("--repeats", type=int, default=2, help="how often contestants take turns")
    options.add_argument("--tiny", action="store_true", help="a tiny model, few rows and steps")
    options.add_argument("--json", type=Path, help="also write the outcomes here")
    args = options.parse_args()
    if args.tiny:
        args.rows, args.mean, args.max_length, args.batch_size = 24, 3.0, 512, 4
        args.steps, args.warm_up, args.layers, args.repeats = 2, 1, 2, 1
    datasets.disable_progress_bars()
    AttentionInterface.register(LOOP, attend_by_lengths)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernel, processor = kernel_name(device), build_processor("qwen2_5_vl")
    plugin = auto_plugin(processor)
    with TemporaryDirectory() as folder:
        source = make_rows(Path(folder), args.rows, args.mean, args.spread, args.max_length // 2, args.tiny)
        mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
        mapped = mapped.filter(lambda row: row["length"] <= args.max_length)
        found = differences(plugin, mapped, lambda: built(processor, device, args.tiny, args.layers), kernel, args)
        for one in found:
            print(
                f"{one.what:56} loss {one.loss:.1e}  worst cosine {one.worst_cosine:.6f}  gradient {one.gradient:.1e}",
                flush=True,
            )
        speeds = compete(plugin, mapped, built(processor, device, args.tiny), kernel, args)
    if args.json is not None:
        outcomes = {"differences": list(map(asdict, found)), "speeds": list(map(asdict, speeds))}
        args.json.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")


def compete(
    plugin: BasePlugin, mapped: Dataset, model: PreTrainedModel, kernel: str, args: argparse.Namespace
) -> list[Speed]:
    """All contestants, in turn."""
    count = sum(parameter.numel() for parameter in model.parameters())
    mean = np.mean(mapped["length"])
    print(f"{count / 1e6:,.0f} million parameters, {len(mapped)} rows of {mean:,.0f} tokens, on {model.device.type}")
    contestants = list(batches_of(plugin, mapped, model, args, kernel))
    speeds = []
    for _ in range(args.repeats):
        for name, implementation, batches in contestants:
            speed = train(f"{name}, {implementation}", running(model, implementation), batches, args)
            print(
                f"{speed.contestant:34} {speed.fill:7.1%} full {speed.tokens_per_s:10,.0f} tokens/s "
                f"{speed.step_s * 1000:8.0f} ms/step {speed.peak_bytes / 2**20:8,.0f} MiB",
                flush=True,
            )
            speeds.append(speed)
    return speeds


if __name__ == "__main__":
    main()
