"""A long training's worth of batches with damaged media: no good row is lost, all bad ones are told, nothing grows."""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MediaError
from mmdatasets.media.image import decode_image
from mmdatasets.testing.damage import DAMAGE_KINDS, damaged_corpus
from mmdatasets.testing.media import write_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms.row_log import read_row_log
from mmdatasets.transforms.tokenise import IGNORE_INDEX

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BATCH_SIZE = 4
CONTENTS = [name for name, kind in DAMAGE_KINDS.items() if kind.of_file is not None]
# A picture of megapixels is a block of memory that an allocator may keep for the next one.
OPTIONS = MediaOptions(image_pixel_limit=500_000)
ALLOWED_MIB = 16
NUM_PICTURES = 40
SETTLED = 0.2  # of the batches: by then caches are full, and allocators have what they need


@dataclasses.dataclass
class Soaked:
    """What a run saw.

    Attributes:
        batches: How many there were.
        seen: For each epoch, how many rows came as they are, once.
        wrong: The rows that did not come as they should: epoch, row, how often as it is, how often replaced.
        memory_mib: Of each process, at several moments.
        files: Open files of each process, likewise.
    """

    batches: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)
    wrong: list[tuple[int, int, int, int]] = dataclasses.field(default_factory=list)
    memory_mib: dict[int, list[float]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    files: dict[int, list[int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    def look(self, pids: Sequence[int]) -> None:
        for pid in pids:
            pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
            self.memory_mib[pid].append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.files[pid].append(len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Numbered:
    """Makes batches that say which rows they were asked for."""

    def __init__(self, collator) -> None:
        self.collator = collator

    def __call__(self, rows):
        return [row["number"] for row in rows], self.collator(rows)


def damaged_files(folder: Path) -> list[tuple[str, bytes | None]]:
    """Contents that no reader takes for a picture, and their kinds; `None` for nothing at all."""
    found: list[tuple[str, bytes | None]] = [("missing", None)]
    for item in damaged_corpus(folder, kinds=CONTENTS, formats=["jpeg", "png", "webp_lossy", "tiff_deflate"]):
        data = item.reference if isinstance(item.reference, bytes) else Path(item.reference).read_bytes()
        try:
            decode_image(data, OPTIONS)
        except MediaError:
            found.append((item.kind, data))
    return found


def make_rows(folder: Path, num_rows: int, chance: random.Random) -> tuple[list[dict[str, object]], set[int]]:
    """Chats about small pictures and videos, and which of them have a file of their own, to be damaged."""
    pictures = [str(write_image(folder / f"{n}.jpg", 56 + 28 * (n % 3), 56, seed=n)) for n in range(NUM_PICTURES)]
    clip = str(write_video(folder / "clip.mp4", VideoSpec(num_frames=4, width=56, height=56)))
    bad = set(chance.sample(range(num_rows), max(8, num_rows // 100)))
    rows = []
    for number in range(num_rows):
        row = {"number": number, "images": [], "videos": []}
        if number in bad:
            row["images"] = [str(write_image(folder / f"own {number}.jpg", 56, 84, seed=number))]
        elif number % 50 == 7:
            row["videos"] = [clip]
        elif number % 10 != 3:
            row["images"] = [chance.choice(pictures) for _ in range(1 + number % 2)]
        question = "<image>" * len(row["images"]) + "<video>" * len(row["videos"]) + f"Number {number}?"
        answer = {"role": "assistant", "content": f"It is {number}."}
        rows.append({**row, "messages": [{"role": "user", "content": question}, answer]})
    return rows, bad


def soak(folder: Path, num_rows: int, num_epochs: int) -> tuple[Soaked, set[int], set[int], int]:
    """Maps and collates rows, 1% of which are damaged: half of them before the map, half after it.

    Returns:
        What was seen, the rows that the map dropped, those that the collator must replace (they were damaged after the
        map, or their header is whole), and how many kinds of damage there were.
    """
    chance = random.Random(0)
    rows, bad = make_rows(folder, num_rows, chance)
    damage = damaged_files(folder / "damage")
    before = set(chance.sample(sorted(bad), len(bad) // 2))
    kinds = {do_damage(chance, rows[number], damage) for number in sorted(before)}
    log = str(folder / "log")
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="quarantine", row_log=log, options=OPTIONS)
    source = datasets.Dataset.from_list(rows)
    features = plugin.features(source.features)
    mapped = source.map(plugin.transform, batched=True, with_indices=True, features=features)
    dropped = set(range(num_rows)) - set(mapped["number"][:])
    assert len(dropped) == num_rows - len(mapped) > 0
    assert dropped <= before
    kinds |= {do_damage(chance, rows[number], damage) for number in sorted(bad - before)}

    soaked = Soaked()
    expected = {row["number"]: torch.tensor(row["input_ids"]) for row in mapped}
    loader = DataLoader(
        mapped,
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=2,
        collate_fn=Numbered(plugin.collator()),
        persistent_workers=True,
        timeout=120,
        generator=torch.Generator().manual_seed(0),
    )
    every = max(1, len(loader) * num_epochs // 60)
    for epoch in range(num_epochs):
        seen, replaced = collections.Counter[int](), collections.Counter[int]()
        batches = iter(loader)
        pids = [os.getpid(), *(worker.pid for worker in batches._workers)]
        for numbers, batch in batches:
            soaked.batches += 1
            take(batch, numbers, expected, seen, replaced)
            if soaked.batches % every == 0:
                soaked.look(pids)
        soaked.seen.append(sum(count == 1 for count in seen.values()))
        for number in range(num_rows):
            comes = (seen[number], replaced[number])
            if comes != ((0, 0) if number in dropped else (0, 1) if number in bad else (1, 0)):
                soaked.wrong.append((epoch, number, *comes))
    return soaked, dropped, bad - dropped, len(kinds)


def do_damage(chance: random.Random, row: dict[str, object], damage: list[tuple[str, bytes | None]]) -> str:
    kind, data = chance.choice(damage)
    path = Path(row["images"][0])
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    return kind


def take(batch, numbers, expected, seen, replaced) -> None:
    """Counts the rows of a batch: each stands there token for token, and is trained, or does not train."""
    for place, number in enumerate(numbers):
        ids = batch["input_ids"][place][batch["attention_mask"][place].bool()]
        if torch.equal(ids, expected[number]) and (batch["labels"][place] != IGNORE_INDEX).sum() > 2:
            seen[number] += 1
        else:
            replaced[number] += 1


def check_rows(soaked: Soaked, num_rows: int, dropped: set[int], replaced: set[int], log: Path) -> None:
    assert not soaked.wrong, "each good row comes once in an epoch, each bad one is replaced"
    assert set(soaked.seen) == {num_rows - len(dropped) - len(replaced)}
    table = read_row_log(log).to_pylist()
    numbers = [row["row"] for row in table if row["outcome"] == "dropped"]
    sources = [row["source"] for row in table if row["outcome"] == "replaced"]
    assert sorted(numbers) == sorted(dropped)
    assert sorted(sources) == sorted(str(log.parent / f"own {number}.jpg") for number in replaced)


def check_growth(soaked: Soaked) -> tuple[float, int]:
    """Nothing grows: the most that any process grew by, in MiB and in files."""
    grown, more = [], []
    for pid, memory in soaked.memory_mib.items():
        files = soaked.files[pid]
        settled = round(SETTLED * len(memory))
        grown.append(min(memory[-5:]) - max(memory[settled : settled + 5]))
        more.append(min(files[-5:]) - max(files[settled : settled + 5]))
    return max(grown), max(more)


def report(soaked: Soaked, num_rows: int, dropped: set[int], replaced: set[int], kinds: int, seconds: float) -> None:
    grown, more = check_growth(soaked)
    good = num_rows - len(dropped) - len(replaced)
    lost = sum(good - seen for seen in soaked.seen)
    lines = {
        "batches": f"{soaked.batches:,}",
        "rows, damaged ones among them": f"{num_rows:,}, {len(dropped) + len(replaced):,}",
        "kinds of damage": kinds,
        "epochs": len(soaked.seen),
        "good rows lost, or seen twice": lost,
        "rows dropped by the map and in the table": len(dropped),
        "rows replaced by the collator and in the table": len(replaced),
        "growth of a process after warming up, MiB": f"{max(grown, 0):.1f}",
        "growth of its open files": max(more, 0),
        "hangs": 0,
        "seconds": f"{seconds:.0f}",
    }
    for memory in soaked.memory_mib.values():
        sys.stdout.write(f"\n{' '.join(f'{moment:.0f}' for moment in memory)}")
    sys.stdout.write("\n" + "\n".join(f"{name:50} {value:>12}" for name, value in lines.items()) + "\n")


@pytest.mark.slow
def test_three_hundred_batches(tmp_path) -> None:
    start = time.monotonic()
    soaked, dropped, replaced, kinds = soak(tmp_path, 400, 3)
    assert soaked.batches >= 297
    report(soaked, 400, dropped, replaced, kinds, time.monotonic() - start)
    check_rows(soaked, 400, dropped, replaced, tmp_path / "log")


@pytest.mark.long
def test_twenty_thousand_batches(tmp_path) -> None:
    start = time.monotonic()
    soaked, dropped, replaced, kinds = soak(tmp_path, 8_080, 10)
    assert soaked.batches >= 20_000
    report(soaked, 8_080, dropped, replaced, kinds, time.monotonic() - start)
    check_rows(soaked, 8_080, dropped, replaced, tmp_path / "log")
    grown, more = check_growth(soaked)
    assert grown < ALLOWED_MIB, soaked.memory_mib
    assert more <= 0, soaked.files
