"""A row of every family, with all media that its model takes."""

from __future__ import annotations

import pytest

from mmdatasets.errors import MMDatasetsError
from mmdatasets.testing.processors import get_spec, list_processors, missing_packages
from mmdatasets.testing.scenarios import row
from mmdatasets.testing.specs import AudioSpec, ClipSpec, ImageSpec
from mmdatasets.testing.subjects import generic_subjects, named_subjects, standin_subjects
from mmdatasets.types import MODALITIES

NAMED = (*named_subjects(), *standin_subjects())
SUBJECTS = {one.name: one for one in (*NAMED, *generic_subjects())}
# The generic plugin compares itself with each processor first, which takes long.
QUICK = {*(one.name for one in NAMED), "idefics2", "smolvlm"}
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SUBJECTS]
SPECS = {"image": ImageSpec(320, 240), "video": ClipSpec(160, 96, (0, 3, 6, 9)), "audio": AudioSpec(1.3)}
COLUMNS = {"image": "images", "video": "videos", "audio": "audios"}
MAX_BYTES = 300_000


def mapped_row(subject, folder):
    """A row with an item of each modality that the subject takes, or else of those that it takes in one row."""
    modalities = [one for one in MODALITIES if one in subject.plugin.modalities and one in subject.modalities]
    for kinds in (modalities, *([one] for one in modalities)):
        made = row([*(SPECS[kind] for kind in kinds), "What is it?"], ["A cat."])
        files = [str(spec.write(folder)) for spec in made.media]
        columns = {"messages": [made.messages]}
        columns |= {COLUMNS[kind]: [made.only(kind, made.references(files))] for kind in kinds}
        try:
            return {name: column[0] for name, column in subject.plugin.transform(columns).items()}
        except MMDatasetsError as error:
            refusal = error
    raise refusal


# Refused by the plugin, as the table of families says, whatever is done with the row then.
REFUSED = {"glm_image", "idefics2", "vibevoice_asr"}


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_every_family(name, media_folder):
    if missing := missing_packages().get(name):
        pytest.skip(f"its processor needs {', '.join(missing)}")
    subject = SUBJECTS[name]
    if name in REFUSED:
        with pytest.raises(MMDatasetsError):
            mapped_row(subject, media_folder)
        return
    made = mapped_row(subject, media_folder)
    preview = subject.plugin.preview(made)
    (facts,) = preview.facts.rows
    assert [item.error for item in facts.media] == [None] * len(made["media_info"])
    assert all(item.picture or item.frames or item.wave for item in facts.media)
    (sequence,) = facts.sequences
    # Nothing is lost, and every item is where the row says.
    edges = [(run.start, run.end) for run in sequence.runs]
    assert [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])]
    assert edges[-1][1] == len(made["input_ids"])
    spans = [(run.start, run.end) for run in sequence.runs if run.kind == "media"]
    assert spans == [(info["start"], info["end"]) for info in made["media_info"]]
    assert sum(item.num_tokens for item in facts.media) == sequence.num_media
    assert sequence.num_trained == sum(label != -100 for label in made["labels"])
    html = preview.html
    assert len(html.encode()) < MAX_BYTES
    for info in made["media_info"]:
        assert f"{info['num_tokens']:,} token" in html
        assert f"&lt;{info['modality']}: {info['num_tokens']:,} token" in html


def test_no_family_is_left_out():
    named = {name for name in list_processors() if get_spec(name)}
    assert named <= set(SUBJECTS)
