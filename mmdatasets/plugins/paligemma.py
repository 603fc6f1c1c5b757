"""PaliGemma: a prompt that sees itself in both directions, and an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mmdatasets.chat.control_tokens import blank_marked
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.transforms.tokenise import IGNORE_INDEX, Edit


@dataclass(eq=False)
class PaliGemmaPlugin(BasePlugin):
    """Text is `images, bos, prompt, newline, answer, eos`, as the processor writes it for a `suffix`.

    The checkpoints come without a chat template; the one here writes that form.
    """

    default_chat_template: ClassVar[str | None] = (
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}{{ message.content }}"
        "{%- else -%}"
        "{%- for part in message.content if part.type == 'image' -%}{{ '<image>' }}{%- endfor -%}"
        "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
        "{%- endif -%}"
        "{{ eos_token if message.role == 'assistant' else '\\n' }}"
        "{%- endfor -%}"
    )

    inserts_bos: ClassVar[bool] = True

    def text_edits(self, engine: Engine, text: str) -> Sequence[Edit]:
        """Puts bos behind the last image, where the template wrote none."""
        bos, placeholder = engine.tokenizer.bos_token, engine.runner.placeholders["image"]
        text = blank_marked(text)
        if bos in text:
            return ()
        after = text.rfind(placeholder)
        start = 0 if after < 0 else after + len(placeholder)
        return (Edit(start, start, bos),)

    def bos_index(self, engine: Engine, input_ids: Sequence[int]) -> int:
        """Behind the last image token."""
        token = engine.media_token_ids[0]
        return len(input_ids) - list(input_ids)[::-1].index(token) if token in input_ids else 0

    def sequence_inputs(self, engine: Engine, batch_ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """`token_type_ids` as far as ids alone tell: 0 up to the last image token, 1 after it.

        The collator, which knows the labels, has the whole prompt in type 0.
        """
        token = engine.media_token_ids[0]
        ends = [len(ids) - list(ids)[::-1].index(token) if token in ids else 0 for ids in batch_ids]
        types = [[0] * end + [1] * (len(ids) - end) for ids, end in zip(batch_ids, ends, strict=True)]
        return {"token_type_ids": types}

    def finish_batch(self, engine: Engine, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Makes `token_type_ids` 0 for the prompt and 1 from the first trained token on.

        In training the model attends in both directions within type 0, and to what came before within type 1.
        """
        if "labels" not in batch:
            return batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}
        trained = batch["labels"] != IGNORE_INDEX
        types = (trained.cumsum(dim=1) > 0) & batch["attention_mask"].bool()
        return batch | {"token_type_ids": types.to(batch["input_ids"].dtype)}
