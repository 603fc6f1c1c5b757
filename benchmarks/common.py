"""What the benchmarks share: photographs to read, alternating repetitions, and the table of results."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

QUESTION, ANSWER = "What do these photos show?", "A scene that was photographed with an ordinary camera."


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds per repetition of one contestant, and what it processed in each."""

    case: str
    contestant: str
    items: int
    seconds: Sequence[float]

    @property
    def rate(self) -> float:
        """Items per second, by the median repetition."""
        return self.items / statistics.median(self.seconds)


def write_photos(folder: Path, sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[str]:
    """Writes one JPEG of quality 90 per (width, height), all different, with the detail and grain of photographs.

    Each is a random crop of one of the packaged photographs, enlarged, with sensor-like noise: without noise an
    enlarged picture would compress, and so decode, far better than a photograph does.
    """
    source = Path(str(resources.files("mmdatasets.testing"))) / "data"
    originals = [Image.open(source / name).convert("RGB") for name in ("cat.jpg", "coffee.jpg", "astronaut.jpg")]
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, size in enumerate(sizes):
        original = originals[number % len(originals)]
        scale = generator.uniform(0.6, 1.0)
        width, height = int(original.width * scale), int(original.height * scale)
        left = int(generator.integers(original.width - width + 1))
        top = int(generator.integers(original.height - height + 1))
        crop = original.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        grain = generator.integers(-6, 7, size=(size[1], size[0], 1), dtype=np.int16)
        pixels = (np.asarray(crop, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8)
        path = folder / f"photo_{number:04d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(str(path))
    return paths


def make_rows(paths: Sequence[str], per_row: int) -> list[dict[str, object]]:
    """Rows in `messages` form with `per_row` of the photographs each."""
    text = "<image>" * per_row + QUESTION
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": ANSWER}]
    return [
        {"messages": messages, "images": list(paths[start : start + per_row])}
        for start in range(0, len(paths), per_row)
    ]


def conversation(paths: Sequence[str]) -> list[dict[str, object]]:
    """The same row as a user hands it to `processor.apply_chat_template`."""
    parts = [{"type": "image", "path": path} for path in paths] + [{"type": "text", "text": QUESTION}]
    return [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ]


def alternate(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Runs the contestants in turn, `repeats` times: whatever disturbs the machine disturbs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(results: Sequence[Result], unit: str, *, as_json: bool) -> None:
    """Prints the results and, in every case, how many times faster the last contestant is than each other one.

    The ratio of the fastest repetitions is the one to trust where other work ran on the machine.
    """
    if as_json:
        print(
            json.dumps(
                [{**asdict(result), "rate": result.rate, "unit": f"{unit} per second"} for result in results], indent=1
            )
        )
        return
    print(f"\npython {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])} on {os.cpu_count()} cores, CPU only")
    columns = f"{'per s':>9} {'ms/' + unit:>10} {'min..max ms':>18} {'medians':>8} {'fastest':>8}"
    print(f"{'case':44} {'what':30} {columns}")
    for result in results:
        ours = [other for other in results if other.case == result.case][-1]
        per_item = [1000 * seconds / result.items for seconds in result.seconds]
        middle, spread = statistics.median(per_item), f"{min(per_item):.2f}..{max(per_item):.2f}"
        medians = fastest = ""
        if result is not ours:
            medians = f"{ours.rate / result.rate:.1f}x"
            fastest = f"{min(per_item) / (1000 * min(ours.seconds) / ours.items):.1f}x"
        numbers = f"{result.rate:9.2f} {middle:10.2f} {spread:>18} {medians:>8} {fastest:>8}"
        print(f"{result.case:44} {result.contestant:30} {numbers}")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5, help="alternating repetitions (default: %(default)s)")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    options.add_argument("--family", default="qwen2_vl", help="offline processor to use (default: %(default)s)")
    return options
