"""Tries many random inputs, each of which its number makes again."""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch

Target = Callable[[Random], str]
"""Tries one input; gives a word for what came of it."""

Targets = Mapping[str, tuple[Target, int]]
"""What is tried, and how often in relation to the others."""

MakeTargets = Callable[[Path], Targets]

_TOLD = 200  # inputs from one word of the process to the next
_AT = "at"


@dataclass
class Tried:
    """What was tried.

    Attributes:
        found: By target and what came of it, how often.
        failures: Of each target and place in the code the first input on which an undocumented exception came, and
            what it was.
    """

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name:12} {what:24} {count:>10,}" for (name, what), count in sorted(self.found.items())]
        total, bad = self.found.total(), len(self.failures)
        return "\n".join([*lines, f"{'inputs':37} {total:>10,}", f"{'undocumented exceptions':37} {bad:>10,}"])


def random_of(seed: int, number: int) -> Random:
    """What makes an input."""
    return Random(f"{seed} {number}")


def pick(targets: Targets, random: Random) -> str:
    """A target's name, drawn by weight."""
    return random.choices([*targets], [weight for _, weight in targets.values()])[0]


def try_many(targets: Targets, count: int, seed: int) -> Tried:
    """Tries inputs one after another."""
    tried = Tried()
    for number in range(count):
        try_one(targets, seed, number, tried)
    return tried


def try_one(targets: Targets, seed: int, number: int, tried: Tried) -> None:
    """Tries an input."""
    random = random_of(seed, number)
    name = pick(targets, random)
    try:
        what = targets[name][0](random)
    except Exception as error:
        what = f"UNDOCUMENTED {type(error).__name__}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{name}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        tried.failures.setdefault(where, f"seed {seed}, input {number}\n{traceback.format_exc()}")
    tried.found[name, what] += 1


def try_many_apart(make_targets: MakeTargets, count: int, seed: int, folder: Path, limit_s: float) -> Tried:
    """Tries inputs in another process, which is watched: where it crashes or hangs, another one goes on behind that.

    Args:
        make_targets: Makes the targets, of a folder for their files.
        count: How many inputs.
        seed: Of the inputs.
        folder: Where the process writes which input it is at.
        limit_s: Seconds after which some hundred inputs must be done.
    """
    whole, skipped, first = Tried(), set[int](), 0
    context = multiprocessing.get_context("fork")
    while first < count:
        mine, other = context.Pipe(duplex=False)
        work = (make_targets, range(first, count), frozenset(skipped), seed, folder, other)
        process = context.Process(target=_work, args=work)
        process.start()
        other.close()
        first, hangs = _listen(mine, whole, first, limit_s)
        if hangs:
            process.kill()
        process.join()
        mine.close()
        if first < count:
            number = int((folder / _AT).read_text("ascii"))
            ending = "HANG" if hangs else f"CRASH {process.exitcode}"
            whole.found["any", ending] += 1
            whole.failures[f"{ending} at input {number}"] = f"seed {seed}, input {number}"
            skipped.add(number)
    return whole


def _listen(pipe: Connection, whole: Tried, first: int, limit_s: float) -> tuple[int, bool]:
    """Takes what a process says until it ends: which input is the next, and whether it hangs."""
    while pipe.poll(limit_s):
        try:
            first, tried = pipe.recv()
        except EOFError:
            return first, False
        whole.found.update(tried.found)
        for where, what in tried.failures.items():
            whole.failures.setdefault(where, what)
    return first, True


def _work(
    make_targets: MakeTargets, numbers: range, skipped: frozenset[int], seed: int, folder: Path, pipe: Connection
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with (folder / "said by decoders.txt").open("ab") as said:
        os.dup2(said.fileno(), 2)
    targets = make_targets(folder)
    with (folder / _AT).open("w") as at:
        for start in range(numbers.start, numbers.stop, _TOLD):
            tried, end = Tried(), min(start + _TOLD, numbers.stop)
            for number in range(start, end):
                if number not in skipped:
                    at.seek(0)
                    at.write(str(number))
                    at.flush()
                    try_one(targets, seed, number, tried)
            pipe.send((end, tried))
            os.truncate(folder / "said by decoders.txt", 0)
