"""Uses damaged media as a training does, and says of each item what came of it: one line of JSON before and after.

python damage_runner.py FOLDER SETTINGS: the settings are JSON of `Settings`. A process of its own, since what is damaged
may take the interpreter down with it, or never come back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

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
FAMILIES: dict[Modality, str] = {"image": "qwen2_vl", "video": "qwen2_vl", "audio": "phi4_multimodal"}
BACKENDS = {
    "image": ("pillow", "torchcodec"),
    "video": ("pyav", "torchcodec", "decord"),
    "audio": ("soundfile", "pyav", "torchcodec"),
}


@dataclasses.dataclass
class Settings:
    """What is done.

    Attributes:
        seed: Of the corpus, and of the sample.
        share: Of the items that are taken; every one when 1.
        first: Number of the item to begin with.
        kinds: Those of the corpus that are taken; all when `None`.
        formats: Likewise.
        passes: How often the items are gone through.
        backends: Whether what decodes is each backend in turn, not the usual one alone.
    """

    seed: int = 0
    share: float = 1.0
    first: int = 0
    kinds: list[str] | None = None
    formats: list[str] | None = None
    passes: int = 1
    backends: bool = True


def say(**fields: object) -> None:
    sys.__stdout__.write(json.dumps(fields) + "\n")
    sys.__stdout__.flush()


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def outcome_of(work: Callable[[], object]) -> str:
    """`"result"`, the class of a typed error, or what went wrong."""
    try:
        work()
    except MMDatasetsError as error:
        return type(error).__name__
    except Exception as error:
        return f"UNTYPED {type(error).__name__}: {str(error)[:200]} {traceback.format_exc(limit=-6)}"
    return "result"


class User:
    """Reads and decodes media by itself, and by way of a plugin."""

    def __init__(self, folder: Path, *, backends: bool) -> None:
        log = str(folder / "quarantine")
        self._plugins = {
            family: auto_plugin(build_processor(family), on_error="quarantine", row_log=log)
            for family in {*FAMILIES.values()}
        }
        self._backends = backends
        self._collators = {family: plugin.collator(on_error="skip") for family, plugin in self._plugins.items()}
        self._good: dict[Modality, dict[str, object]] = {}
        for modality in ("image", "video", "audio"):
            good = next(own for own in media_formats() if own.modality == modality)
            path = folder / f"good{good.suffix}"
            path.write_bytes(good.valid)
            self._good[modality] = self._mapped(modality, [str(path)])[0]

    def use(self, item: DamagedItem) -> dict[str, str]:
        """What comes of an item, by what is done with it."""
        found = {}
        for backend in BACKENDS[item.modality][: None if self._backends else 1]:
            options = MediaOptions(**{f"{item.modality}_backend": backend}, video_max_frames=8)
            found[f"read with {backend}"] = outcome_of(lambda options=options: self._read(item, options))
        found["mapped and collated"] = outcome_of(lambda: self._train(item))
        if isinstance(item.reference, str | bytes):
            found["changed after the map"] = outcome_of(lambda: self._collate_changed(item))
        return found

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
            raise MMDatasetsError("dropped")
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
            raise MMDatasetsError("replaced")


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


def main() -> None:
    import random

    folder, settings = Path(sys.argv[1]), Settings(**json.loads(sys.argv[2]))
    warnings.simplefilter("ignore")
    user = User(folder, backends=settings.backends)
    say(ready=True)
    for number in range(settings.passes):
        chance = random.Random(settings.seed)
        corpus = damaged_corpus(folder / "corpus", settings.seed, kinds=settings.kinds, formats=settings.formats)
        for index, item in enumerate(corpus):
            taken = chance.random() < settings.share
            if index < settings.first or not taken:
                continue
            say(begin=index, kind=item.kind, format=item.format, modality=item.modality, run=number)
            files, start, used = num_files(), time.perf_counter(), time.process_time()
            with without_rights(item.needs_no_rights):
                found = user.use(item)
            cpu_s, wall_s = time.process_time() - used, time.perf_counter() - start
            if num_files() != files:
                gc.collect()
            say(end=index, found=found, cpu_s=cpu_s, wall_s=wall_s, files=num_files() - files, rss_mib=rss_mib())
            if isinstance(item.reference, str) and item.reference.startswith(str(folder / "corpus")):
                with contextlib.suppress(OSError):
                    os.unlink(item.reference)  # noqa: PTH108
    say(done=True)


if __name__ == "__main__":
    main()
