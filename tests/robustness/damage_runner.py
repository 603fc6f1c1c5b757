"""Uses damaged media as a training does, in a process of its own, and says of each item what came of it.

What is damaged may take the interpreter down with it, or never come back: the process that watches names the item
then, and goes on behind it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MMDatasetsError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.testing.damage import DamagedItem, damaged_corpus, media_formats
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import FramePlan, Modality

RATE = 16_000
NOBODY = 65_534
_START_S = 300.0
UNTYPED, CRASH, HANG = "untyped error", "crash", "hang"
QUARANTINED, STOPPED = "quarantined", "stopped the run"
FAMILIES: dict[Modality, str] = {"image": "qwen2_vl", "video": "qwen2_vl", "audio": "phi4_multimodal"}
BACKENDS = {
    "image": ("pillow", "torchcodec"),
    "video": ("pyav", "torchcodec", "decord"),
    "audio": ("soundfile", "pyav", "torchcodec"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is done.

    Attributes:
        seed: Of the corpus, and of the sample.
        share: Of the items that are taken; every one when 1.
        always: Kinds of which every item is taken, whatever the share.
        kinds: Those of the corpus that are taken; all when `None`.
        formats: Likewise.
        backends: Whether what decodes is each backend in turn, not the usual one alone.
        one_use: Whether each item is used in one of the ways only, drawn by lot, not in all of them.
        passes: How often the items are gone through.
        limit_s: Seconds that an item may take, everything together.
    """

    seed: int = 0
    share: float = 1.0
    always: Collection[str] = ()
    kinds: Collection[str] | None = None
    formats: Collection[str] | None = None
    backends: bool = True
    one_use: bool = False
    passes: int = 1
    limit_s: float = 60.0

    def items(self, folder: Path) -> Iterator[tuple[int, DamagedItem]]:
        """Those items of the corpus that are taken, with their numbers."""
        chance, index = random.Random(self.seed), 0
        for _ in range(self.passes):
            for item in damaged_corpus(folder, self.seed, kinds=self.kinds, formats=self.formats):
                index += 1
                if chance.random() < self.share or item.kind in self.always:
                    yield index, item


class Quarantined(Exception):
    """A row was dropped by the map, or replaced by the collator."""


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def outcome_of(work: Callable[[], object]) -> str:
    """`"result"`, `"quarantined"`, the class of a typed error, or what went wrong."""
    try:
        work()
    except Quarantined:
        return QUARANTINED
    except MMDatasetsError as error:
        return type(error).__name__
    except Exception as error:
        return f"{UNTYPED} {type(error).__name__}: {str(error)[:200]} {traceback.format_exc(limit=-6)}"
    return "result"


class User:
    """Reads and decodes media by itself, and by way of a plugin."""

    def __init__(self, folder: Path, log: str, settings: Settings) -> None:
        self._plugins = {
            family: auto_plugin(build_processor(family), on_error="quarantine", row_log=log)
            for family in {*FAMILIES.values()}
        }
        self._settings, self._chance = settings, random.Random(settings.seed)
        self._collators = {family: plugin.collator(on_error="skip") for family, plugin in self._plugins.items()}
        self._good: dict[Modality, dict[str, object]] = {}
        for modality in ("image", "video", "audio"):
            good = next(own for own in media_formats() if own.modality == modality)
            path = folder / f"good{good.suffix}"
            path.write_bytes(good.valid)
            self._good[modality] = self._mapped(modality, [str(path)])[0]

    def use(self, item: DamagedItem) -> dict[str, str]:
        """What comes of an item, by what is done with it."""
        uses: dict[str, Callable[[], str]] = {}
        for backend in BACKENDS[item.modality][: None if self._settings.backends else 1]:
            options = MediaOptions(**{f"{item.modality}_backend": backend})
            uses[f"read with {backend}"] = lambda options=options: outcome_of(lambda: self._read(item, options))
        uses["mapped and collated"] = lambda: self._tolerated(lambda: self._train(item))
        if isinstance(item.reference, str | bytes):
            uses["changed after the map"] = lambda: self._tolerated(lambda: self._collate_changed(item))
        chosen = [self._chance.choice([*uses])] if self._settings.one_use else [*uses]
        return {name: uses[name]() for name in chosen}

    def _tolerated(self, work: Callable[[], object]) -> str:
        """What comes of it where no typed error may come through."""
        found = outcome_of(work)
        return found if found in ("result", QUARANTINED) or found.startswith(UNTYPED) else f"{STOPPED}: {found}"

    def _read(self, item: DamagedItem, options: MediaOptions) -> None:
        if item.modality == "image":
            info = probe_image(item.reference, options)
            assert decode_image(item.reference, options).shape == (3, info.height, info.width)
        elif item.modality == "video":
            video = probe_video(item.reference, options)
            indices = tuple(sorted({0, video.num_frames // 2, video.num_frames - 1}))
            times = None if video.timestamps_s is None else tuple(video.timestamps_s[list(indices)].tolist())
            frames = decode_frames(item.reference, FramePlan(indices, times), options)
            assert frames.shape == (len(indices), 3, video.height, video.width)
        else:
            assert probe_audio(item.reference, options).num_samples > 0
            samples = decode_audio(item.reference, options, RATE)
            assert len(samples)
            assert np.isfinite(samples).all()

    def _mapped(self, modality: Modality, references: list[object]) -> list[dict[str, object]]:
        plugin = self._plugins[FAMILIES[modality]]
        question = {"role": "user", "content": f"<{modality}>What?"}
        batch = {
            "messages": [[question, {"role": "assistant", "content": "This."}] for _ in references],
            f"{modality}s": [[reference] for reference in references],
        }
        mapped = plugin.transform(batch)
        return [
            {name: column[row] for name, column in mapped.items()}  # type: ignore[union-attr]
            for row in range(len(mapped["input_ids"]))
        ]

    def _train(self, item: DamagedItem) -> None:
        """Maps the item, and collates it with a good row. Errors are for the quarantine."""
        rows = self._mapped(item.modality, [item.reference])
        assert len(rows) <= 1
        if not rows:
            raise Quarantined("dropped")
        self._collate([*rows, self._good[item.modality]], item.modality)

    def _collate_changed(self, item: DamagedItem) -> None:
        """Collates a good row whose media was damaged after the map."""
        good = self._good[item.modality]
        path, data = (item.reference, None) if isinstance(item.reference, str) else (None, item.reference)
        self._collate([good, {**good, f"{item.modality}s": [{"path": path, "bytes": data}]}], item.modality)

    def _collate(self, rows: list[dict[str, object]], modality: Modality) -> None:
        collator = self._collators[FAMILIES[modality]]
        before = collator.bad_rows.reasons.total()
        assert len(collator(rows)["input_ids"]) == len(rows)
        if collator.bad_rows.reasons.total() > before:
            raise Quarantined("replaced")


@contextlib.contextmanager
def without_rights(needed: bool) -> Iterator[None]:
    """Has the process be nobody, since root may read everything."""
    is_root = needed and os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of an item.

    Attributes:
        kind: What was wrong with it.
        format: Its format.
        modality: As what it was used.
        found: By what was done: `"result"`, the class of a typed error, or what else happened.
        cpu_s: Seconds of processor time, everything together.
        new_files: How many more files are open than before.
        rss_mib: Memory of the process afterwards.
    """

    kind: str
    format: str
    modality: Modality
    found: dict[str, str]
    cpu_s: float = 0.0
    new_files: int = 0
    rss_mib: float = 0.0


def use_corpus(folder: Path, settings: Settings, first: int, pipe: Connection) -> None:
    """Uses the items of the corpus one by one, from a number on; says which one before and what came of it after."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with (folder / "said by decoders.txt").open("ab") as said, tempfile.TemporaryDirectory() as log:
        os.dup2(said.fileno(), 2)
        Path(log).chmod(0o777)  # for nobody, see `without_rights`
        user = User(folder, log, settings)
        pipe.send("ready")
        for index, item in settings.items(folder / "corpus"):
            if index >= first:
                pipe.send((index, Outcome(item.kind, item.format, item.modality, {})))
                pipe.send((index, measure(user, item)))
            if isinstance(item.reference, str) and item.reference.startswith(str(folder)):
                with contextlib.suppress(OSError):
                    os.unlink(item.reference)  # noqa: PTH108
    pipe.send("done")


def measure(user: User, item: DamagedItem) -> Outcome:
    """What comes of an item, and what it costs."""
    files, used = num_files(), time.process_time()
    with without_rights(item.needs_no_rights):
        found = user.use(item)
    cpu_s = time.process_time() - used
    if num_files() != files:
        gc.collect()
    return Outcome(item.kind, item.format, item.modality, found, cpu_s, num_files() - files, rss_mib())


def watch(folder: Path, settings: Settings) -> list[Outcome]:
    """What comes of the items, crashes and hangs of the process that uses them included."""
    outcomes: list[Outcome] = []
    context, first = multiprocessing.get_context("fork"), 0
    while True:
        mine, other = context.Pipe(duplex=False)
        process = context.Process(target=use_corpus, args=(folder, settings, first, other))
        process.start()
        other.close()
        begun, ending = _listen(mine, settings.limit_s, outcomes)
        if ending:
            process.kill()
        process.join()
        mine.close()
        if begun is None:
            assert not ending, f"the process that uses media ended before it used any ({process.exitcode})"
            return outcomes
        index, outcome = begun
        what = ending if ending == HANG else f"{CRASH} {process.exitcode}"
        outcomes.append(dataclasses.replace(outcome, found={"everything": what}))
        first = index + 1


def _listen(pipe: Connection, limit_s: float, outcomes: list[Outcome]) -> tuple[tuple[int, Outcome] | None, str]:
    """Takes what a process says until it ends; gives the item that it did not come back from, and why not."""
    begun: tuple[int, Outcome] | None = None
    while True:
        if not pipe.poll(_START_S if begun is None else limit_s):
            return begun, HANG
        try:
            said = pipe.recv()
        except EOFError:
            return begun, CRASH
        if said == "done":
            return None, ""
        if said == "ready":
            continue
        if begun is None:
            begun = said
        else:
            outcomes.append(said[1])
            begun = None


def table(outcomes: Sequence[Outcome]) -> str:
    """What was tried and what came of it, for the reader of the test's output."""
    found = [one for outcome in outcomes for one in outcome.found.values()]
    errors = Counter(one for one in found if one.endswith("Error"))
    lines = {
        "items": len(outcomes),
        "kinds of damage": len({outcome.kind for outcome in outcomes}),
        "formats": len({outcome.format for outcome in outcomes}),
        "times read, mapped or collated": len(found),
        "  results": sum(one == "result" for one in found),
        "  rows quarantined by the map, replaced by the collator": found.count(QUARANTINED),
        **{f"  {name}": count for name, count in errors.most_common()},
        "errors that stop a run": sum(one.startswith(STOPPED) for one in found),
        "errors of other classes": sum(one.startswith(UNTYPED) for one in found),
        "crashes of the interpreter": sum(one.startswith(CRASH) for one in found),
        "hangs": sum(one == HANG for one in found),
        "files left open": sum(outcome.new_files for outcome in outcomes),
        "slowest item, s of processor time": f"{max(outcome.cpu_s for outcome in outcomes):.1f}",
    }
    return "\n".join(f"{name:60} {value:>10}" for name, value in lines.items())
