"""Position ids are those that the model itself computes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PretrainedConfig, Qwen2_5OmniConfig

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.collate.position_ids import ModelPositions, plain_position_ids
from mmdatasets.errors import MMDatasetsError
from mmdatasets.testing.conformance import SCENARIOS, Run
from mmdatasets.testing.inputs import model_inputs
from mmdatasets.testing.models import build_model, list_models
from mmdatasets.testing.processors import build_processor, get_spec
from mmdatasets.testing.subjects import generic_subjects, named_subjects
from mmdatasets.testing.video import VideoSpec, write_video
from tests.collate.packing_cases import row_position_ids

MROPE = [
    "ernie4_5_vl",
    "glm46v",
    "glm4v",
    "qwen2_5_omni",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_omni_moe",
    "qwen3_vl",
]
PLAIN = ["gemma3", "internvl", "llava", "mllama", "qwen2_audio"]
BY_NAME = {one.name: one for one in SCENARIOS}
BATCHES = ["rows of different counts", "rows of videos", "images and videos, mixed batch", "text only"]
_NOT_BOTH = {"glm4v", "glm46v"}  # transformers' models take a video's tokens for images' where a batch has both
SOUND = ["rows of audio", "audio, video and image"]


@pytest.fixture(scope="module")
def subjects():
    return {one.name: one for one in (*named_subjects(), *generic_subjects())}


def cases(families):
    for family in families:
        modalities = set(get_spec(family).modalities)
        for name in [*BATCHES, *SOUND]:
            if BY_NAME[name].modalities <= modalities and not (family in _NOT_BOTH and name == BATCHES[2]):
                yield family, name


def own_positions(model, batch):
    """What the model computes in a forward pass, and its logits."""
    seen = []
    inner = model.model
    real = inner.compute_3d_position_ids

    def watch(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        return seen[-1]

    inner.compute_3d_position_ids = watch
    try:
        with torch.no_grad():
            logits = model(**model_inputs(model, batch, labels=False)).logits
    finally:
        del inner.compute_3d_position_ids
    assert len(seen) == 1
    return seen[0], logits


def run_of(subject, name, folder):
    return Run(subject, BY_NAME[name], folder, subject.oracle)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("family", "name"), cases(MROPE))
def test_mrope(family, name, side, subjects, media_folder) -> None:
    run = run_of(subjects[family], name, media_folder)
    model = run.model
    given = run.plugin.collator(padding_side=side)(run.mapped)
    made = run.plugin.collator(padding_side=side, position_ids=True, config=model.config)(run.mapped)
    positions = made["position_ids"]
    assert positions.shape == (3, *made["input_ids"].shape)
    theirs, logits = own_positions(model, given)
    real = made["attention_mask"].bool()
    if theirs is None:
        assert torch.equal(positions, plain_position_ids(made["attention_mask"]).expand_as(positions))
    else:
        assert positions.dtype == theirs.dtype
        assert torch.equal(positions, theirs)
    with torch.no_grad():
        ours = model(**model_inputs(model, made, labels=False)).logits
    torch.testing.assert_close(ours[real], logits[real], atol=0 if theirs is not None else 2e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "name"), cases(PLAIN))
def test_other_models_count_tokens(family, name, subjects, media_folder) -> None:
    run = run_of(subjects[family], name, media_folder)
    model = run.model
    for side in ("left", "right"):
        given = run.plugin.collator(padding_side=side)(run.mapped)
        made = run.plugin.collator(padding_side=side, position_ids=True, config=model.config)(run.mapped)
        for row, ids, mask in zip(run.mapped, made["position_ids"], made["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == list(range(len(row["input_ids"])))
            assert not ids[~mask.bool()].any()
        with torch.no_grad():
            ours = model(**model_inputs(model, made, labels=False)).logits
            theirs = model(**model_inputs(model, given, labels=False)).logits
        real = made["attention_mask"].bool()
        torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-3)


def test_every_model_with_mrope_is_tested() -> None:
    found = set()
    for family in list_models():
        model = build_model(family, build_processor(family))
        if any(hasattr(module, "get_rope_index") for module in model.modules()):
            found.add(family)
    assert found == set(MROPE)


@pytest.mark.parametrize(
    ("family", "name"), [("qwen2_5_vl", "rows of videos"), ("qwen3_vl", BATCHES[2]), ("llava", BATCHES[0])]
)
def test_rows_by_themselves(family, name, subjects, media_folder) -> None:
    run = run_of(subjects[family], name, media_folder)
    positions = ModelPositions(run.model.config)
    batch = run.plugin.collator()(run.mapped)
    together = positions(batch)
    for index, row in enumerate(run.mapped):
        inputs = dict(run.plugin.collator()([row]))
        alone = row_position_ids(positions, row["input_ids"], inputs)
        assert torch.equal(alone, together[..., index, :][..., batch["attention_mask"][index].bool()])


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
@pytest.mark.parametrize("names", [["loud"], ["loud", "silent"], ["silent", "loud"]])
def test_videos_with_sound(family, names, tmp_path) -> None:
    """The model is told that it must look for sound among the tokens of videos, by the batch itself."""
    files = {
        name: str(write_video(tmp_path / f"{name}.mp4", VideoSpec(num_frames=75, width=96, height=64, **more)))
        for name, more in (("loud", {"audio_codec": "aac"}), ("silent", {}))
    }
    processor = build_processor(family)
    plugin = auto_plugin(processor, options=MediaOptions(use_audio_in_video=True, video_fps=2.0))
    chat = [{"role": "user", "content": "<video>" * len(names) + "?"}, {"role": "assistant", "content": "x"}]
    mapped = plugin.transform({"messages": [chat], "videos": [[files[name] for name in names]]})
    rows = [{name: column[0] for name, column in mapped.items()}]
    model = build_model(family, processor)
    batch = plugin.collator()(rows)
    assert batch["use_audio_in_video"] is True
    theirs, _ = own_positions(model, batch)
    made = plugin.collator(position_ids=True, config=model.config)(rows)
    assert torch.equal(made["position_ids"], theirs)
    # Sound and pictures of the same second have the same positions in time: without being told, the model counts on.
    untold, _ = own_positions(model, {**batch, "use_audio_in_video": False}) if names == ["loud"] else (None, None)
    assert untold is None or untold.max() > theirs.max()


def test_the_configuration_of_a_whole_omni_model() -> None:
    config = Qwen2_5OmniConfig()
    assert ModelPositions(config).config is config.thinker_config


def test_a_pickled_collator_gives_the_same(subjects, media_folder) -> None:
    run = run_of(subjects["qwen2_5_vl"], "rows of videos", media_folder)
    collator = run.plugin.collator(position_ids=True, config=run.model.config)
    before = pickle.dumps(collator)
    expected = collator(run.mapped)["position_ids"]
    assert pickle.dumps(collator) == before
    assert torch.equal(pickle.loads(before)(run.mapped)["position_ids"], expected)
    loader = DataLoader(run.mapped, batch_size=3, num_workers=1, collate_fn=collator, timeout=120)
    assert torch.equal(next(iter(loader))["position_ids"], expected)


def test_a_configuration_is_needed(subjects) -> None:
    with pytest.raises(ValueError, match="position_ids=True needs config="):
        subjects["qwen2_vl"].plugin.collator(position_ids=True)


def test_a_configuration_that_transformers_does_not_know(subjects) -> None:
    class OwnConfig(PretrainedConfig):
        model_type = "own"

    with pytest.raises(MMDatasetsError, match="no model class for OwnConfig"):
        subjects["qwen2_vl"].plugin.collator(position_ids=True, config=OwnConfig())


def test_padding_has_no_position() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert plain_position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 0]]


def test_a_model_that_cannot_be_asked(subjects, monkeypatch) -> None:
    """As those of older versions of transformers: no plain numbers in place of the model's own."""
    model = subjects["qwen2_5_omni"].model
    monkeypatch.delattr(type(model.model), "compute_3d_position_ids")
    with pytest.raises(MMDatasetsError, match="this version of transformers has no compute_3d_position_ids"):
        subjects["qwen2_5_omni"].plugin.collator(position_ids=True, config=model.config)


@pytest.mark.parametrize("name", ["text only", "rows of different counts"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_5_omni", "glm4v"])
def test_blank_media_does_not_count(family, name, subjects, media_folder) -> None:
    run = run_of(subjects[family], name, media_folder)
    model = run.model
    settings = {"ensure_media": True, "padding_side": "right"}
    theirs, _ = own_positions(model, run.plugin.collator(**settings)(run.mapped))
    made = run.plugin.collator(**settings, position_ids=True, config=model.config)(run.mapped)
    assert torch.equal(made["position_ids"], theirs)
    for row, positions in zip(run.mapped, made["position_ids"].unbind(1), strict=True):
        if not row["media_info"]:
            length = len(row["input_ids"])
            assert positions[:, :length].tolist() == [list(range(length))] * 3
