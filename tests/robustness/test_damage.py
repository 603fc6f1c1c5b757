"""Every kind of damage to every format: a result or a typed error, no crash, no hang, no file left open."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence

import pytest

from mmdatasets.testing.damage import DAMAGE_KINDS, damaged_corpus, media_formats
from tests.robustness import damage_runner
from tests.robustness.damage_runner import CRASH, HANG, STOPPED, UNTYPED, Outcome, Settings, table, watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")

ALLOWED_MIB = 64
ALLOWED_CPU_S = 20.0


def check(outcomes: Sequence[Outcome]) -> None:
    wrong = {
        f"{outcome.format}, {outcome.kind}": {
            name: one for name, one in outcome.found.items() if one.startswith((UNTYPED, STOPPED, CRASH, HANG))
        }
        for outcome in outcomes
    }
    assert not {name: found for name, found in wrong.items() if found}
    assert not [outcome for outcome in outcomes if outcome.new_files > 0]
    assert not [outcome for outcome in outcomes if outcome.cpu_s > ALLOWED_CPU_S]


def test_the_corpus_has_every_format_and_kind(tmp_path) -> None:
    assert len(DAMAGE_KINDS) > 200
    formats = {one.modality: 0 for one in media_formats()}
    for one in media_formats():
        formats[one.modality] += 1
    assert formats["image"] >= 15
    assert formats["video"] >= 10
    assert formats["audio"] >= 10
    names = [item.name for item in damaged_corpus(tmp_path, kinds=["undamaged", "cut off at 5 tenths", "missing"])]
    assert len(names) == len(set(names)) == 2 * len(media_formats()) + 3


def test_a_sample_of_the_corpus_and_every_format_undamaged(tmp_path) -> None:
    settings = Settings(share=0.02, always=("undamaged",), backends=False)
    outcomes = watch(tmp_path, settings)
    sys.stdout.write(f"\n{table(outcomes)}\n")
    check(outcomes)
    whole = [outcome for outcome in outcomes if outcome.kind == "undamaged"]
    assert len(whole) == len(media_formats()) < len(outcomes) - 30
    assert {one for outcome in whole for name, one in outcome.found.items() if not name.startswith("changed")} == {
        "result"
    }


@pytest.mark.slow
def test_the_whole_corpus_each_item_used_in_one_way(tmp_path) -> None:
    outcomes = watch(tmp_path, Settings(one_use=True))
    sys.stdout.write(f"\n{table(outcomes)}\n")
    check(outcomes)
    assert {outcome.format for outcome in outcomes} == {one.name for one in media_formats()}
    assert {outcome.kind for outcome in outcomes} == set(DAMAGE_KINDS)


@pytest.mark.long
def test_the_whole_corpus_in_every_way_and_no_memory_is_kept(tmp_path) -> None:
    outcomes = watch(tmp_path, Settings(passes=2))
    sys.stdout.write(f"\n{table(outcomes)}\n")
    check(outcomes)
    half = len(outcomes) // 2
    late = statistics.median(outcome.rss_mib for outcome in outcomes[-half // 4 :])
    early = statistics.median(outcome.rss_mib for outcome in outcomes[half - half // 4 : half])
    sys.stdout.write(f"memory after the first pass {early:.0f} MiB, after the second {late:.0f} MiB\n")
    assert late - early < ALLOWED_MIB


def test_crashes_hangs_and_untyped_errors_are_seen(tmp_path, monkeypatch) -> None:
    """Of the watch itself."""

    def use(self, item):
        if item.kind == "missing":
            os.kill(os.getpid(), signal.SIGKILL)
        if item.kind == "a directory":
            time.sleep(60)
        return {"read": damage_runner.outcome_of(lambda: 1 / 0)}

    monkeypatch.setattr(damage_runner.User, "__init__", lambda *_: None)
    monkeypatch.setattr(damage_runner.User, "use", use)
    kinds = ["undamaged", "missing", "a directory", "a FIFO"]
    outcomes = watch(tmp_path, Settings(kinds=kinds, formats=["png"], limit_s=1))
    ends = {outcome.kind: next(iter(outcome.found.values())) for outcome in outcomes}
    assert ends["missing"] == f"{CRASH} {-signal.SIGKILL}"
    assert ends["a directory"] == HANG
    for kind in ("undamaged", "a FIFO"):
        assert ends[kind].startswith(f"{UNTYPED} ZeroDivisionError")
    with pytest.raises(AssertionError):
        check(outcomes)
