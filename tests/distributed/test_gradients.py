"""Two processes, one of which has a batch without media, under DDP and FSDP2."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mmdatasets import auto_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor, get_spec

from .launch import run

WORKER = Path(__file__).with_name("gradients_worker.py")


@pytest.fixture
def rows_of(tmp_path, image_file):
    """Rows of a family: two with media of each modality, two without."""

    def make(plugin, family):
        modalities = [kind for kind in get_spec(family).modalities if kind != "video"]
        files = {
            "image": [str(image_file(120, 90)), str(image_file(90, 90))],
            "audio": [str(write_audio(tmp_path / f"{index}.wav", 16_000, 1.0 + index)) for index in range(2)],
        }
        media = "".join(f"<{kind}>" for kind in modalities)
        questions = [f"{media}What is it?", f"{media}And this?", "What is a cat?", "And a dog, then?"]
        answers = ["A cat.", "Some other animal.", "It purrs.", "It barks, mostly at night."]
        columns = {
            "messages": [
                [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                for question, answer in zip(questions, answers, strict=True)
            ]
        }
        for kind in modalities:
            columns[f"{kind}s"] = [[files[kind][0]], [files[kind][1]], [], []]
        mapped = plugin.transform(columns)
        return [{name: column[index] for name, column in mapped.items()} for index in range(4)]

    return make


def single_process(plugin, family, rows):
    """The gradients of all rows in one batch."""
    model = build_model(family, plugin.processor)
    model(**plugin.collator()(rows)).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "internvl", "qwen2_5_omni"])
def test_gradients_are_those_of_one_process(family, rows_of, tmp_path) -> None:
    plugin = auto_plugin(build_processor(family))
    rows = rows_of(plugin, family)
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps([rows[:2], rows[2:]]))
    result = tmp_path / "gradients.pt"
    done = run(WORKER, family, "ddp,fsdp", "ensure_media", str(tmp_path / "rows.pkl"), str(result))
    assert done.returncode == 0, done.stderr[-3000:]
    expected = single_process(plugin, family, rows)
    by_wrapper = torch.load(result)
    assert set(by_wrapper) == {"ddp", "fsdp"}
    for wrapper, found in by_wrapper.items():
        compare(found, expected, wrapper)


@pytest.mark.slow
def test_a_rank_with_a_bad_row_stays_in_step(rows_of, tmp_path) -> None:
    """It lost its only image, and runs the vision tower all the same; nothing is learnt of what stands in."""
    family = "qwen2_5_vl"
    plugin = auto_plugin(build_processor(family))
    rows = rows_of(plugin, family)
    bad = {**rows[0], "images": [{"bytes": b"no image", "path": "damaged.png"}]}
    parts = [[bad, rows[2]], [rows[1], rows[3]]]
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps(parts))
    result = tmp_path / "gradients.pt"
    done = run(WORKER, family, "fsdp", "skip", str(tmp_path / "rows.pkl"), str(result))
    assert done.returncode == 0, done.stderr[-3000:]
    # By one process: the good row in the place of both, of which one trains nothing.
    batches = [plugin.collator()([rows[2], rows[2]]), plugin.collator()(parts[1])]
    batches[0]["labels"][0] = -100
    trained = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    model = build_model(family, plugin.processor)
    for batch in batches:
        model(**batch, num_items_in_batch=trained).loss.backward()
    compare(torch.load(result)["fsdp"], {name: one.grad for name, one in model.named_parameters()}, "fsdp")


def compare(found, expected, wrapper) -> None:
    assert found.keys() == expected.keys()
    reached = {name for name, gradient in expected.items() if gradient is not None and gradient.any()}
    assert any("visual" in name or "vision" in name for name in reached)
    for name in reached:
        torch.testing.assert_close(
            found[name], expected[name], atol=2e-6, rtol=2e-3, msg=lambda text, n=name: f"{wrapper}, {n}: {text}"
        )
    for name in set(expected) - reached:
        assert found[name] is None or not found[name].any(), (wrapper, name)


@pytest.mark.slow
def test_without_blank_media_the_ranks_do_not_meet(rows_of, tmp_path) -> None:
    """That the above would not pass by itself: one rank gathers the vision tower's layers, and the other does not."""
    plugin = auto_plugin(build_processor("qwen2_5_vl"))
    rows = rows_of(plugin, "qwen2_5_vl")
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps([rows[:2], rows[2:]]))
    done = run(WORKER, "qwen2_5_vl", "fsdp", "plain", str(tmp_path / "rows.pkl"), str(tmp_path / "gradients.pt"))
    assert done.returncode != 0
    assert not (tmp_path / "gradients.pt").exists()
