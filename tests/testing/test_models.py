import pytest
import torch

from mmdatasets.testing import build_model, build_processor, get_spec, list_models, list_processors
from tests.testing.families import ONE_A_ROW, encode, make_media

NAMES = list_models()
KINDS = [(name, kind) for name in NAMES for kind in get_spec(name).modalities]
KIMI_VIDEO = pytest.mark.xfail(
    raises=RuntimeError,
    reason="transformers' Kimi_K25Model splits a video's features by frames that its tower has pooled",
    strict=True,
)
TRAINED_KINDS = [pytest.param(*case, marks=KIMI_VIDEO if case == ("kimi_k25", "video") else ()) for case in KINDS]
# Their processors refuse a row without an image: PaliGemma's always, Mllama's where another row has one.
NEEDS_IMAGES = ("paligemma",)
NEEDS_IMAGES_THROUGHOUT = (*NEEDS_IMAGES, "mllama")


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    loss = model(**(batch | {"labels": labels})).loss  # PaliGemma's processor makes labels of its own
    loss.backward()
    assert torch.isfinite(loss)
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    for name, grad in grads.items():
        assert torch.isfinite(grad).all(), name
    return grads


def reads_media(parameter):
    return any(word in parameter for word in ("visi", "visual", "image", "audio", "projector", "projection"))


def test_every_processor_that_says_so_has_a_model():
    assert [name for name in list_processors() if get_spec(name).has_model] == NAMES
    with pytest.raises(KeyError, match=r"qwen9_vl.*qwen2_vl"):
        build_model("qwen9_vl", build_processor("qwen2_vl"))


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        pytest.param(*case.values, count, marks=[*case.marks, *([pytest.mark.slow] if count > 1 and heavy else [])])
        for case in TRAINED_KINDS
        for heavy in ["video" in case.values or "mllama" in case.values]
        for count in ((1,) if case.values in ONE_A_ROW else (1, 2))
    ],
)
def test_it_trains_on_what_the_processor_returns(name, kind, count):
    processor = build_processor(name)
    model = build_model(name, processor).train()
    grads = gradients(model, encode(name, processor, kind, [make_media(kind, count)]))
    assert any(grad.abs().max() > 0 for parameter, grad in grads.items() if reads_media(parameter))
    assert any(grad.abs().max() > 0 for parameter, grad in grads.items() if not reads_media(parameter))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEEDS_IMAGES])
def test_it_trains_on_text_alone(name):
    processor = build_processor(name)
    grads = gradients(build_model(name, processor).train(), encode(name, processor, "image", [[]]))
    assert any(grad.abs().max() > 0 for grad in grads.values())


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS if kind == "image" and name not in NEEDS_IMAGES_THROUGHOUT]
)
def test_it_trains_on_a_batch_in_which_rows_differ(name):
    processor = build_processor(name)
    batch = encode(name, processor, "image", [make_media("image", 1), [], make_media("image", 2, seed=1)])
    grads = gradients(build_model(name, processor).train(), batch)
    assert any(grad.abs().max() > 0 for parameter, grad in grads.items() if reads_media(parameter))


@pytest.mark.parametrize(("name", "kind"), TRAINED_KINDS)
def test_the_media_reach_the_answer(name, kind):
    processor = build_processor(name)
    model = build_model(name, processor)
    one, two = (encode(name, processor, kind, [make_media(kind, 1, seed=seed)]) for seed in (0, 1))
    assert torch.equal(one["input_ids"], two["input_ids"])
    with torch.no_grad():
        assert not torch.equal(model(**one).logits[0, -1], model(**two).logits[0, -1])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_tiny_and_always_the_same(name):
    processor = build_processor(name)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    model = build_model(name, processor)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.num_parameters() < 2_000_000
    assert not model.training

    torch.manual_seed(6)
    again, other = build_model(name, processor).state_dict(), build_model(name, processor, seed=1).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    assert any(not torch.equal(other[key], value) for key, value in model.state_dict().items())
