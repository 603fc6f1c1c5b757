"""What the conformance suite compares with: the processor's own call, and what stands in where it cannot be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch

from mmdatasets.testing.inputs import Inputs
from mmdatasets.testing.marks import find_runs, mark_generation, runs_of
from mmdatasets.testing.media_call import call_item_by_item, call_on_texts
from mmdatasets.testing.scenarios import Chat, media_in, parts_of

if TYPE_CHECKING:
    from mmdatasets.testing.conformance import Run
    from mmdatasets.types import Modality

Side: TypeAlias = Literal["left", "right"]
Arguments: TypeAlias = "Mapping[Modality, Mapping[str, object]]"
"""Keyword arguments of a processor, by modality."""

OWN_CALL = "processor.apply_chat_template"

_GROUPS: Mapping[Modality, str] = {"image": "images_kwargs", "video": "videos_kwargs", "audio": "audio_kwargs"}
REFUSALS = (ValueError, IndexError, TypeError, KeyError, AttributeError, RuntimeError)
"""What processors raise at what they do not take."""

_CONTEXT = 3
"""Tokens before an answer that tell it from an equal one: its turn's header."""


class Oracle:
    """What a model's own processor makes of conversations.

    Subclasses make the call of processors that take it differently. Conversations come as typed turns whose media
    parts hold their references, `{"type": "image", "image": ...}`; what the calls return is what the model's forward
    takes, and `None` where the processor refuses the conversations.
    """

    name: ClassVar[str]
    """What is asked, for reports."""
    padding_side: ClassVar[Side | None] = None
    """Where the processor pads, whatever its tokenizer is set to."""
    added: ClassVar[tuple[str, ...]] = ()
    """Inputs that the family's batches have beside those of the call."""
    unsaid: ClassVar[tuple[str, ...]] = ()
    """Inputs that the call makes for some rows only."""
    further: ClassVar[tuple[Modality, ...]] = ()
    """Modalities that the call takes though the processor has no part for them."""

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The processor's call on a batch.

        Args:
            run: Who asks.
            chats: The conversations.
            padding_side: Where to pad; where the processor does it when `None`.
            arguments: Further keyword arguments.
        """
        raise NotImplementedError

    def encode_row(self, run: Run, index: int) -> tuple[Inputs | None, list[bool] | None]:
        """The call on the scenario's row `index` alone, and which of its tokens the assistant writes, if it says."""
        return self.encode(run, [run.chats[index]]), None

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The ids that the processor makes of a rendered text with the media of the scenario's row `index`."""
        raise NotImplementedError

    def written(self, chat: Chat) -> Chat:
        """A conversation as the family's chat template takes it."""
        return chat

    def render(self, run: Run, chat: Chat, chat_template: str | None = None) -> str:
        """A conversation as text, as the family's chat template writes it."""
        template = chat_template or run.plugin.engine.template.source
        processor = run.subject.processor
        text: str = processor.apply_chat_template(self.written(chat), chat_template=template, tokenize=False)
        return text

    def stage_inputs(self, run: Run, inputs: Inputs, batch_ids: Sequence[Sequence[int]]) -> Inputs:
        """What of the call's inputs `get_mm_inputs` returns, which is given ids and media alone.

        Args:
            run: Who asks.
            inputs: The call's.
            batch_ids: The padded ids of each row.
        """
        return {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask", "labels")}

    def for_model(self, inputs: Inputs) -> Mapping[str, object]:
        """The call's inputs as keyword arguments of the model's forward."""
        return inputs

    def marked_template(self, run: Run, index: int) -> str | None:
        """The chat template with its answers marked; `None` where that renders the scenario's row otherwise."""
        marked, chat = mark_generation(run.plugin.engine.template.source), run.chats[index]
        return marked if self.render(run, chat, marked) == self.render(run, chat) else None

    def marked_runs(self, run: Run, index: int, marked: str) -> list[tuple[list[int], list[int]]] | None:
        """For each answer of a row the tokens just before it, and its own, up to where the next turn begins.

        From the tokenizer's `return_assistant_tokens_mask`, in whose text a media item is one placeholder.
        """
        try:
            made = run.plugin.engine.tokenizer.apply_chat_template(
                self.written(run.chats[index]),
                chat_template=marked,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except REFUSALS:
            return None
        ids = list(made["input_ids"])
        ranges = runs_of([bool(flag) for flag in made["assistant_masks"]])
        return [(ids[max(0, start - _CONTEXT) : start], ids[start:end]) for start, end in ranges]


def _beyond_images(chats: Sequence[Chat]) -> bool:
    return any(kind != "image" for chat in chats for kind, _ in media_in(chat))


class ProcessorOracle(Oracle):
    """The processor's own `apply_chat_template(..., tokenize=True)`."""

    name = OWN_CALL

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The call with padding. With videos or audio, that of the processor on the rendered texts."""
        if _beyond_images(chats):
            return self._call_on_texts(run, [self.render(run, chat) for chat in chats], chats, padding_side, arguments)
        kwargs: dict[str, object] = {"padding": True} | ({"padding_side": padding_side} if padding_side else {})
        kwargs |= {_GROUPS[modality]: dict(given) for modality, given in (arguments or {}).items()}
        return self._call(run, [self.written(chat) for chat in chats], processor_kwargs=kwargs)

    def encode_row(self, run: Run, index: int) -> tuple[Inputs | None, list[bool] | None]:
        """The call, with `return_assistant_tokens_mask` where the chat template can be marked.

        Some processors do not say where the text grew, and mask other tokens: then the mask is left out.
        """
        if _beyond_images([run.chats[index]]):
            return self.encode(run, [run.chats[index]]), None
        chat, marked = self.written(run.chats[index]), self.marked_template(run, index)
        flags = {"chat_template": marked, "return_assistant_tokens_mask": True}
        made = None if marked is None else self._call(run, [chat], processor_kwargs={"padding": True}, **flags)
        if made is None or marked is None:
            return self.encode(run, [run.chats[index]]), None
        inputs = {name: value for name, value in made.items() if name != "assistant_masks"}
        mask = torch.as_tensor(made["assistant_masks"])[0].bool().tolist()
        ids, runs = inputs["input_ids"][0].tolist(), self.marked_runs(run, index, marked)  # type: ignore[index, union-attr]
        masked = [ids[start:end] for start, end in runs_of(mask)]
        return inputs, mask if runs is None or masked == [own for _, own in runs] else None

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The same call, with a template that writes the text whatever it is given."""
        if _beyond_images([run.chats[index]]):
            made = self._call_on_texts(run, [text], [run.chats[index]])
            return None if made is None else torch.as_tensor(made["input_ids"])[0].tolist()
        parts = [part for message in run.chats[index] for part in parts_of(message) if part["type"] != "text"]
        chat: Chat = [{"role": "user", "text": text, "content": parts}]
        made = self._call(run, [chat], chat_template="{{ messages[0]['text'] }}")
        return None if made is None else torch.as_tensor(made["input_ids"])[0].tolist()

    def _call_on_texts(
        self,
        run: Run,
        texts: Sequence[str],
        chats: Sequence[Chat],
        padding_side: Side | None = None,
        arguments: Arguments | None = None,
    ) -> Inputs | None:
        """The processor's call on texts; where it refuses a single row of several items, each by itself."""
        processor = run.subject.processor
        try:
            return call_on_texts(processor, texts, chats, padding_side, arguments)
        except REFUSALS:
            if len(chats) > 1 or arguments or len(list(media_in(chats[0]))) < 2:
                return None
        try:
            return call_item_by_item(processor, texts[0], chats[0])
        except REFUSALS:
            return None

    def _call(self, run: Run, chats: list[Chat], **kwargs: object) -> Inputs | None:
        try:
            return run.subject.processor.apply_chat_template(  # type: ignore[no-any-return]
                chats, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
            )
        except REFUSALS:
            return None


class LeftPaddingOracle(ProcessorOracle):
    """The same of processors that pad on the left where there is audio, whatever their tokenizers are set to."""

    padding_side = "left"


class TokenizerOracle(Oracle):
    """The tokenizer's own `apply_chat_template(..., tokenize=True)`, for text-only models."""

    name = "tokenizer.apply_chat_template"

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The call with padding."""
        side = {"padding_side": padding_side} if padding_side else {}
        made: Inputs = run.subject.processor.apply_chat_template(
            [self.written(chat) for chat in chats],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            tokenizer_kwargs=side,
        )
        return made

    def encode_row(self, run: Run, index: int) -> tuple[Inputs | None, list[bool] | None]:
        """The call, and its `assistant_masks` where the chat template can be marked."""
        made, marked = self.encode(run, [run.chats[index]]), self.marked_template(run, index)
        runs = None if marked is None else self.marked_runs(run, index, marked)
        if made is None or runs is None:
            return made, None
        return made, find_runs(torch.as_tensor(made["input_ids"])[0].tolist(), runs)

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The tokenizer on the text."""
        ids: list[int] = run.subject.processor(text, add_special_tokens=False)["input_ids"]
        return ids


class Expected:
    """The oracle's word on a run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.oracle = run.oracle

    @cached_property
    def name(self) -> str:
        """What was asked, for reports."""
        if any(own is None for own, _ in self._asked):
            return "the tokenizer on the rendered text, for rows that the processor refuses"
        return self.oracle.name if self.batch is not None else f"{self.oracle.name}, row by row: it refuses the batch"

    @cached_property
    def batch(self) -> Inputs | None:
        """The whole batch, where the oracle can make it."""
        return self.rows[0] if len(self.run.rows) == 1 else self.oracle.encode(self.run, self.run.chats)

    def padded(self, side: Side) -> Inputs | None:
        """The batch padded on a side, where the oracle can make it."""
        return self.oracle.encode(self.run, self.run.chats, padding_side=side)

    @cached_property
    def rows(self) -> list[Inputs | None]:
        """Each row by itself, without padding, where the oracle can make it.

        The tokenizer on the rendered text stands in for a processor that refuses a row without media.
        """
        return [
            self._tokenised(index) if own is None and not self.run.rows[index].media else own
            for index, (own, _) in enumerate(self._asked)
        ]

    @cached_property
    def _asked(self) -> list[tuple[Inputs | None, list[bool] | None]]:
        return [self.oracle.encode_row(self.run, index) for index in range(len(self.run.rows))]

    def _tokenised(self, index: int) -> Inputs:
        engine, text = self.run.plugin.engine, self.oracle.render(self.run, self.run.chats[index])
        bos = engine.tokenizer.bos_token
        special = not (bos is not None and text.startswith(bos))
        made: Inputs = engine.tokenizer([text], add_special_tokens=special, return_tensors="pt")
        return made

    def ids(self, index: int) -> list[int]:
        """A row's token ids.

        Raises:
            AssertionError: If the oracle refuses the row.
        """
        row = self.rows[index]
        if row is None:
            raise AssertionError(f"the oracle refuses row {index}, which leaves nothing to compare with")
        found: list[int] = torch.as_tensor(row["input_ids"])[0].tolist()
        return found

    def trained(self, index: int) -> tuple[list[bool] | None, str]:
        """Which of a row's tokens the assistant writes, and who says so where it is not the oracle itself.

        That is the tokenizer, by its `assistant_masks` on the text with one placeholder for each media item, whose
        answers are looked for in the ids. `None` where nobody says.
        """
        mask = self._asked[index][1]
        if mask is not None:
            return mask, ""
        marked = self.oracle.marked_template(self.run, index)
        runs = None if marked is None else self.oracle.marked_runs(self.run, index, marked)
        found = None if runs is None else find_runs(self.ids(index), runs)
        return found, "the tokenizer's assistant_masks, looked for in the ids"
