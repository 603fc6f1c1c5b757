import pytest
import torch

from mmdatasets.testing import build_model, build_processor, list_models, list_processors, make_image

NAMES = list_processors()


def encode(processor, *rows, videos=None):
    """The processor's own batch for rows of images, each image followed by a question."""
    texts = []
    for images in rows:
        content = [{"type": "image"} for _ in images] + [{"type": "video"} for _ in videos or []]
        conversation = [
            {"role": "user", "content": [*content, {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Shapes."}]},
        ]
        texts.append(processor.apply_chat_template(conversation, tokenize=False))
    media = {"images": [list(images) for images in rows]} if any(rows) else {}
    if videos:
        media |= {"videos": videos, "do_sample_frames": False}
    return processor(text=texts, padding=True, return_tensors="pt", **media)


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_processor_has_a_model():
    assert list_models() == NAMES
    with pytest.raises(KeyError, match=r"qwen9_vl.*qwen2_vl"):
        build_model("qwen9_vl", build_processor("qwen2_vl"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "rows",
    [
        [[make_image(200, 120)]],
        [[make_image(200, 120), make_image(64, 300, seed=1)]],
        [[]],
        [[make_image(90, 60)], [], [make_image(60, 90, seed=1), make_image(300, 200, seed=2)]],
    ],
    ids=["one image", "two images", "text only", "batch"],
)
def test_it_trains_on_what_the_processor_returns(name, rows):
    processor = build_processor(name)
    model = build_model(name, processor).train()
    grads = gradients(model, encode(processor, *rows))
    for parameter, grad in grads.items():
        if any(rows) or "visual" not in parameter:
            assert grad is not None, parameter
            assert torch.isfinite(grad).all(), parameter
    assert any(grad is not None and grad.abs().max() > 0 for grad in grads.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_on_a_video(name):
    processor = build_processor(name)
    model = build_model(name, processor).train()
    video = torch.stack([torch.full((3, 96, 128), 20 * index, dtype=torch.uint8) for index in range(4)])
    batch = encode(processor, [], videos=[video])
    assert "pixel_values_videos" in batch
    grads = gradients(model, batch)
    assert all(grad is not None for grad in grads.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_pixels_reach_the_answer(name):
    processor = build_processor(name)
    model = build_model(name, processor)
    one, two = (encode(processor, [make_image(200, 120, seed=seed)]) for seed in (0, 1))
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
    assert model.num_parameters() < 1_000_000
    assert not model.training

    torch.manual_seed(6)
    again, other = build_model(name, processor).state_dict(), build_model(name, processor, seed=1).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    assert any(not torch.equal(other[key], value) for key, value in model.state_dict().items())
