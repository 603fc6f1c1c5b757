"""Random rows and mutated media: results, or documented errors. The figures are printed; see docs/robustness.md."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.driver import Targets, Tried, try_many, try_many_apart
from tests.fuzz.probe_targets import probe_targets
from tests.fuzz.text_targets import READERS, all_targets

NUM_TEXTS, NUM_PROBES = 1_000_000, 100_000


@pytest.fixture(autouse=True)
def _quiet():
    """Each batch of dropped rows is a warning."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def report(tried: Tried, seconds: float) -> None:
    sys.stdout.write(f"\n{tried}\n{'seconds':37} {seconds:>10,.0f}\n")
    assert not tried.failures, "\n\n".join(f"{where}\n{what}" for where, what in tried.failures.items())


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(random=st.randoms(use_true_random=False))
def test_readers_of_rows_with_inputs_that_shrink(name: str, random: Random) -> None:
    READERS[name][0](random)


def test_rows(tmp_path) -> None:
    start = time.monotonic()
    report(try_many(all_targets(str(tmp_path)), 3_000, seed=1), time.monotonic() - start)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_probes(tmp_path) -> None:
    start = time.monotonic()
    report(try_many_apart(probe_targets, 600, 1, tmp_path, 60), time.monotonic() - start)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_million_rows(tmp_path) -> None:
    start = time.monotonic()
    tried = try_many_apart(lambda folder: all_targets(str(folder / "log")), NUM_TEXTS, 2, tmp_path, 600)
    report(tried, time.monotonic() - start)
    assert tried.found.total() == NUM_TEXTS


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_hundred_thousand_probes(tmp_path) -> None:
    start = time.monotonic()
    tried = try_many_apart(probe_targets, NUM_PROBES, 2, tmp_path, 300)
    report(tried, time.monotonic() - start)
    assert tried.found.total() == NUM_PROBES


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_exceptions_crashes_and_hangs_are_seen(tmp_path) -> None:
    """Of the driver itself: the inputs behind those are tried, none twice."""
    ends = {3: "crash", 7: "hang", 11: "error"}

    def targets(folder: Path) -> Targets:
        def attempt(_: Random) -> str:
            end = ends.get(int((folder / "at").read_text("ascii")))
            if end == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "hang":
                time.sleep(60)
            if end == "error":
                raise KeyError(end)
            return "result"

        return {"target": (attempt, 1)}

    tried = try_many_apart(targets, 20, 0, tmp_path, 1)
    assert tried.found == {
        ("target", "result"): 17,
        ("target", "UNDOCUMENTED KeyError"): 1,
        ("any", "HANG"): 1,
        ("any", f"CRASH {-signal.SIGKILL}"): 1,
    }
    assert len(tried.failures) == 3
