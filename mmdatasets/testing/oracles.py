"""What the conformance suite compares with: the processor's own call, and what stands in where it cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from mmdatasets.testing.conformance import Run

Tensors: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Expected:
    """The oracle's word on a batch.

    Attributes:
        name: What was asked.
        batch: The whole batch, where the oracle can make it.
        rows: Each row by itself, without padding, where the oracle can make it.
    """

    name: str
    batch: Tensors | None
    rows: Sequence[Tensors | None]


Oracle: TypeAlias = "Callable[[Run], Expected]"

OWN_CALL = "processor.apply_chat_template"


def processor_oracle(run: Run) -> Expected:
    """The processor's own `apply_chat_template(..., tokenize=True)` on the batch and on each row.

    Where the processor refuses the batch, the rows stand alone; where it refuses a row without images, the tokenizer
    on the rendered text stands in for it.
    """
    chats = [_with_images(row.messages, paths) for row, paths in zip(run.rows, run.paths, strict=True)]
    rows = [_call(run, [chat]) for chat in chats]
    name = OWN_CALL
    if any(one is None for one in rows):
        rows = [_tokenizer_alone(run, chat) if one is None else one for one, chat in zip(rows, chats, strict=True)]
        name = "the tokenizer on the rendered text, for rows that the processor refuses"
    batch = _call(run, chats)
    if batch is None and name == OWN_CALL:
        name = f"{OWN_CALL}, row by row: it refuses the batch"
    return Expected(name, batch, rows)


def suffix_oracle(run: Run) -> Expected:
    """A processor's call with a prompt and a `suffix`, which is how PaliGemma takes an answer.

    Earlier turns belong to the prompt, as the plugin's template writes them. Without images the processor refuses the
    call; its form without them is then put together from the tokenizer.
    """
    rows = [_suffix_call(run, index) for index in range(len(run.rows))]
    return Expected("processor(text=prompt, images=..., suffix=answer), row by row", None, rows)


def _suffix_call(run: Run, index: int) -> Tensors:
    engine, row = run.plugin.engine, run.rows[index]
    tokenizer, answer = engine.tokenizer, row.answers[-1]
    prompt = engine.template.render(row.messages[:-1]).text.removesuffix("\n")
    if not row.images:
        text = f"{tokenizer.bos_token}{prompt}\n"
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, f"{answer}<eos>")]
        ids = torch.tensor([parts[0] + parts[1]])
        types = torch.tensor([[0] * len(parts[0]) + [1] * len(parts[1])])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
    images = [engine.runner.processor.image_processor.fetch_images(path) for path in run.paths[index]]
    made = engine.runner.processor(text=[prompt], images=[images], suffix=[answer], return_tensors="pt")
    # With several turns it takes all but the last answer for prompt, which it is not in training.
    unsaid = {"labels"} if len(row.answers) == 1 else {"labels", "token_type_ids"}
    return {name: value for name, value in made.items() if name not in unsaid}


def own_call(
    run: Run, images: Sequence[Sequence[object]], images_kwargs: Mapping[str, object] | None = None
) -> Tensors | None:
    """The processor's own call on the rows with other images or arguments; `None` where it refuses."""
    chats = [_with_images(row.messages, items) for row, items in zip(run.rows, images, strict=True)]
    return _call(run, chats, images_kwargs)


def _with_images(messages: Sequence[Mapping[str, object]], images: Sequence[object]) -> list[dict[str, object]]:
    supply = iter(images)

    def filled(part: Mapping[str, object]) -> dict[str, object]:
        return {"type": "image", "image": next(supply)} if part["type"] == "image" else dict(part)

    return [{**message, "content": [filled(part) for part in message["content"]]} for message in messages]  # type: ignore[attr-defined]


def _call(
    run: Run, chats: list[list[dict[str, object]]], images_kwargs: Mapping[str, object] | None = None
) -> Tensors | None:
    kwargs = {"padding": True} | ({"images_kwargs": dict(images_kwargs)} if images_kwargs else {})
    try:
        return run.subject.processor.apply_chat_template(  # type: ignore[no-any-return]
            chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=kwargs
        )
    except (ValueError, IndexError, TypeError, KeyError):
        return None


def _tokenizer_alone(run: Run, chat: list[dict[str, object]]) -> Tensors | None:
    processor = run.subject.processor
    if any(part["type"] == "image" for message in chat for part in message["content"]):  # type: ignore[attr-defined]
        return None
    text = processor.apply_chat_template(chat)
    bos = processor.tokenizer.bos_token
    special = not (bos is not None and text.startswith(bos))
    return processor.tokenizer([text], add_special_tokens=special, return_tensors="pt")  # type: ignore[no-any-return]
