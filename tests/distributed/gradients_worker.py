"""What each of two processes runs: a forward and a backward pass on its own rows, under DDP or FSDP2.

torchrun --nproc-per-node 2 gradients_worker.py FAMILY WRAPPER[,WRAPPER] HOW ROWS.pkl GRADIENTS.pt

HOW is "ensure_media", or "skip", by which rows that cannot be used are replaced, or "plain".
"""

from __future__ import annotations

import pickle
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mmdatasets import auto_plugin
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from tests.distributed.launch import leave

# Parameters that no forward pass of transformers' training uses, which DDP would wait for.
NEVER_USED = {"qwen2_5_omni": ["audio_tower.audio_bos_eos_token.weight"]}


def wrap(model: torch.nn.Module, wrapper: str) -> torch.nn.Module:
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    # Each layer, of the towers too, is gathered when it runs, which all ranks must do together.
    for module in list(model.modules()):
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def full(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def main() -> None:
    family, wrappers, how, rows_file, result = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    processor = build_processor(family)
    plugin = auto_plugin(processor)
    collator = plugin.collator(ensure_media=how == "ensure_media", on_error="skip" if how == "skip" else None)
    rows = pickle.loads(Path(rows_file).read_bytes())
    batch = collator(rows[dist.get_rank()])
    gradients = {wrapper: gradients_of(family, processor, batch, wrapper) for wrapper in wrappers.split(",")}
    if dist.get_rank() == 0:
        torch.save(gradients, result)
    leave()


def gradients_of(family, processor, batch, wrapper) -> dict[str, torch.Tensor | None]:
    """The gradients of all ranks' rows together."""
    model = build_model(family, processor)
    for name, parameter in model.named_parameters():
        if any(name.endswith(unused) for unused in NEVER_USED.get(family, ())):
            parameter.requires_grad = False
    wrapped = wrap(model, wrapper)
    # Each rank's loss is its share of the mean over the tokens of all; gradients are averaged over ranks.
    trained = (batch["labels"][:, 1:] != -100).sum()
    dist.all_reduce(trained)
    for _ in range(2):  # a second pass waits for what the first one left undone
        model.zero_grad()
        loss = wrapped(**batch, num_items_in_batch=trained).loss * dist.get_world_size()
        loss.backward()
    return {name: full(parameter.grad) for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    main()
