"""Llama 3.2 Vision: what a row's tokens depend on."""

from __future__ import annotations

import torch

from mmdatasets.testing import build_model, build_processor, make_image

QUESTIONS = [(1, "What is this?", "A cat."), (2, "Compare.", "The second one is larger than the first one.")]


def conversation(count: int, question: str, answer: str) -> list[dict[str, object]]:
    parts = [{"type": "text", "text": "Look: "}, *[{"type": "image"}] * count, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def test_tokens_before_the_first_image_see_padding_images_in_transformers_own_batch() -> None:
    """Why the conformance suite leaves these tokens out: nothing of this package takes part in it.

    Where a token may see no image, the model turns its mask into one that hides none, and then drops what the
    feed-forward layer makes of it, but not what the cross attention made. No mask that a collator could give changes
    that, and other padding images would not be the processor's own.
    """
    processor = build_processor("mllama")
    model = build_model("mllama", processor)
    texts = [processor.apply_chat_template(conversation(*question)) for question in QUESTIONS]
    images = [[make_image(320, 240, seed=1)], [make_image(200, 260, seed=2), make_image(330, 330, seed=3)]]

    def logits(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        batch = processor(
            text=texts[rows], images=images[rows], padding=True, add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            return batch["input_ids"], model(**batch).logits

    ids, together = logits(slice(None))
    for index, affected in ((0, True), (1, False)):  # the second has as many images as any
        own_ids, alone = logits(slice(index, index + 1))
        length = own_ids.shape[1]
        assert torch.equal(ids[index, :length], own_ids[0])
        first = own_ids[0].tolist().index(processor.image_token_id)
        assert first > 3
        difference = (together[index, :length] - alone[0]).abs().amax(dim=-1)
        assert difference[first:].max() < 1e-5
        assert (difference[:first] > 1e-3).all() if affected else (difference[:first] < 1e-5).all()
