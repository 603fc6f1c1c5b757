"""Proof that the check of materialised media notices other pixels, frames and samples, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest

from mmdatasets.plugins.registry import auto_plugin
from mmdatasets.testing.checks.materialised import materialised, modalities_that_stay
from mmdatasets.testing.conformance import SCENARIOS, Run
from mmdatasets.testing.oracles import Expected, ProcessorOracle
from mmdatasets.testing.subjects import named_subjects, standin_subjects

SUBJECTS = {subject.name: subject for subject in (*named_subjects(), *standin_subjects())}


def check(family, scenario, folder, spoil=None):
    """Runs the check on a family, of whose materialised columns something is spoilt."""
    known = SUBJECTS[family]

    def build(processor):
        plugin = auto_plugin(processor)

        @dataclass(eq=False)
        class Spoilt(type(plugin)):
            def materialise(self, batch, indices=None, **settings):
                lossy = {"quality": 60} if spoil == "pixels" else {}
                made = super().materialise(batch, indices, **settings, **lossy)
                if spoil not in (None, "pixels"):
                    spoil(made)
                return made

        return Spoilt(processor=processor, family=plugin.family)

    chosen = next(one for one in SCENARIOS if one.name == scenario)
    run = Run(replace(known, build_plugin=build), chosen, folder, known.oracle or ProcessorOracle())
    return materialised(run, Expected(run))


def swap(column, made):
    made[column][0] = made[column][0][::-1]


def swap_frames(made):
    made["video_frames"][0][0] = made["video_frames"][0][0][::-1]


def claim(made):
    """Says of what was materialised that it is an original."""
    for row in made["media_info"]:
        for record in row:
            record["materialised"] = False


@pytest.mark.parametrize(
    ("family", "scenario", "spoil"),
    [
        ("qwen2_vl", "rows of different counts", "pixels"),
        ("qwen2_vl", "one video", swap_frames),
        ("gemma3n", "rows of audio", partial(lambda made: made["audios"].reverse())),
        ("llava_next", "rows of different counts", lambda made: swap("images", made) or made["images"].reverse()),
        ("qwen2_vl", "rows of different counts", claim),
    ],
    ids=["other pixels", "frames in another order", "other sounds", "other images", "originals without a reason"],
)
def test_faults_are_noticed(family, scenario, spoil, tmp_path):
    assert check(family, scenario, tmp_path) is None
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is: the check fails
        check(family, scenario, tmp_path, spoil)


def test_what_cannot_be_materialised_is_a_remark(tmp_path):
    remark = check("minicpm_v", "rows of different counts", tmp_path)
    assert remark.startswith("images stay originals: it reads the original's pixels")
    assert modalities_that_stay(remark) == ["image"]
    assert modalities_that_stay("") == []
