"""Oracles of processors that take conversations in a way of their own: PaliGemma's, and code of model hubs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import PIL.Image
import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets.testing.inputs import Inputs
from mmdatasets.testing.marks import find_runs
from mmdatasets.testing.media_call import Loaded, load
from mmdatasets.testing.oracles import REFUSALS, Arguments, Oracle, Side
from mmdatasets.testing.scenarios import Chat, Message, Part, media_in, parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmdatasets.testing.conformance import Run

_TAGS = {"image": "(<image>./</image>)", "audio": "(<audio>./</audio>)"}
_OF_VIDEO_CHATS = {"use_image_id": False, "max_slice_nums": 2}
"""Arguments of the call on a chat with a video, in MiniCPM's model cards."""


def _images(chat: Chat) -> list[object]:
    return [part["image"] for message in chat for part in parts_of(message) if part["type"] == "image"]


def _text(message: Message) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in parts_of(message))


class SuffixOracle(Oracle):
    """A processor's call with a prompt and a `suffix`, which is how PaliGemma takes an answer.

    Earlier turns belong to the prompt, as the plugin's template writes them. Without images the processor refuses the
    call; its form without them is then put together from the tokenizer.
    """

    name = "processor(text=prompt, images=..., suffix=answer)"
    unsaid = ("token_type_ids",)

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The call on a single row: of several rows, all would need as many images."""
        if len(chats) > 1:
            return None
        prompt = self.render(run, chats[0][:-1]).removesuffix("\n")
        made = self._call(run, prompt, _text(chats[0][-1]), _images(chats[0]))
        # With several turns it takes all but the last answer for prompt, which it is not in training.
        turns = sum(message["role"] == "assistant" for message in chats[0])
        return made if turns == 1 else {n: v for n, v in made.items() if n not in ("labels", "token_type_ids")}

    def encode_row(self, run: Run, index: int) -> tuple[Inputs | None, list[bool] | None]:
        """The call. Every answer's own tokens are trained, with the end of the text behind it."""
        made = self.encode(run, [run.chats[index]])
        if made is None:
            return None, None
        tokenizer = run.plugin.engine.tokenizer
        texts = [f"{answer}{tokenizer.eos_token}" for answer in run.rows[index].answers]
        runs: list[tuple[list[int], list[int]]] = [
            ([], tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
        ]
        return made, find_runs(torch.as_tensor(made["input_ids"])[0].tolist(), runs)

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The call on a text that ends with the row's last answer."""
        answer = run.rows[index].answers[-1]
        prompt = text.removesuffix(f"{answer}{run.plugin.engine.tokenizer.eos_token}").removesuffix("\n")
        made = self._call(run, prompt, answer, list(run.files[index]))
        return torch.as_tensor(made["input_ids"])[0].tolist()

    def stage_inputs(self, run: Run, inputs: Inputs, batch_ids: Sequence[Sequence[int]]) -> Inputs:
        """The ids do not say where the answer begins: types are 0 up to the last image token and 1 behind it."""
        image = run.subject.processor.image_token_id
        ends = [max((index + 1 for index, token in enumerate(ids) if token == image), default=0) for ids in batch_ids]
        types = [[0] * end + [1] * (len(ids) - end) for ids, end in zip(batch_ids, ends, strict=True)]
        return {**super().stage_inputs(run, inputs, batch_ids), "token_type_ids": torch.tensor(types)}

    def _call(self, run: Run, prompt: str, answer: str, images: list[object]) -> Inputs:
        processor = run.subject.processor
        if not images:
            return _without_images(processor.tokenizer, prompt, answer)
        loaded = [_opened(image) for image in images]
        made: Inputs = processor(text=[prompt], images=[loaded], suffix=[answer], return_tensors="pt")
        return made


def _without_images(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Inputs:
    texts = (f"{tokenizer.bos_token}{prompt}\n", f"{answer}{tokenizer.eos_token}")
    asked, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    ids = torch.tensor([asked + said])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.tensor([[0] * len(asked) + [1] * len(said)]),
        "labels": torch.tensor([[-100] * len(asked) + said]),
    }


class CallOracle(Oracle):
    """The call on rendered texts and one list of all opened images, or what a subclass takes.

    For processors that are code of their checkpoints, as published, and those whose `apply_chat_template` fails.
    """

    name = "processor(text=..., images=...)"

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The call on a batch, which pads where the tokenizer is set to."""
        texts, rows = [self.render(run, chat) for chat in chats], [_loaded(run, chat) for chat in chats]
        try:
            with _padding(run.plugin.engine.tokenizer, padding_side):
                return self._call(run, texts, rows)
        except REFUSALS:
            return None

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The call on the text."""
        made = self._call(run, [text], [_loaded(run, run.chats[index])])
        return torch.as_tensor(made["input_ids"])[0].tolist()

    def _call(self, run: Run, texts: list[str], rows: list[list[Loaded]]) -> Inputs:
        images = [item.data for row in rows for item in row]
        made: Inputs = run.subject.processor(images=images or None, text=texts, padding=True, return_tensors="pt")
        return made


class MossVLOracle(CallOracle):
    """MOSS-VL's. It reads videos itself; here its video processor finds the decoded frames where it would read."""

    name = "processor(text=..., images=..., videos=...)"

    def _call(self, run: Run, texts: list[str], rows: list[list[Loaded]]) -> Inputs:
        items = [item for row in rows for item in row]
        images = [item.data for item in items if item.modality == "image"]
        videos = [item for item in items if item.modality == "video"]
        processor = copy.copy(run.subject.processor)
        processor.video_processor = copy.copy(processor.video_processor)
        found = [item.data for item in videos], [item.metadata for item in videos]
        processor.video_processor.fetch_videos = lambda *paths, **settings: found
        names = [f"video {index}" for index in range(len(videos))]
        made: Inputs = processor(
            text=texts, images=images or None, videos=names or None, padding=True, return_tensors="pt"
        )
        return made

    def stage_inputs(self, run: Run, inputs: Inputs, batch_ids: Sequence[Sequence[int]]) -> Inputs:
        """The ids do not say what is padding, from which the call hides all images: the processor's own mask."""
        mask = run.subject.processor._create_cross_attention_mask(
            batch_ids, inputs["grid_thw"], inputs["media_nums_per_sample"]
        )
        return {**super().stage_inputs(run, inputs, batch_ids), "cross_attention_mask": mask}


class MiniCPMVOracle(CallOracle):
    """MiniCPM-V 2.6's and MiniCPM-o 2.6's: a tag for each image and audio, given row by row, and padding on the left.

    A video is its frames, each an image on a line of its own, and the call then has the arguments of the model cards.
    One call cannot have them for some rows alone. The processors pad with id 0 and give ids and mask in other types
    than a tokenizer does; what the mask hides is not compared.
    """

    name = "processor(text, images)"
    padding_side = "left"
    added = ("position_ids",)
    further = ("video",)

    def written(self, chat: Chat) -> Chat:
        """The turns as strings."""
        return [{**message, "content": "".join(map(_tagged, _parts(message)))} for message in chat]

    def encode(
        self, run: Run, chats: Sequence[Chat], *, padding_side: Side | None = None, arguments: Arguments | None = None
    ) -> Inputs | None:
        """The call on a batch."""
        return None if padding_side == "right" else super().encode(run, chats)

    def encode_text(self, run: Run, text: str, index: int) -> list[int] | None:
        """The call on the text, in which the placeholder of a video stands for its frames."""
        first, *rest = text.split(run.plugin.engine.runner.placeholders["video"])
        videos = [part for message in run.chats[index] for part in parts_of(message) if part["type"] == "video"]
        frames = [_tagged(part) for part in videos[: len(rest)]]
        whole = first + "".join(tags + piece for tags, piece in zip(frames, rest, strict=True))
        return super().encode_text(run, whole, index)

    def render(self, run: Run, chat: Chat, chat_template: str | None = None) -> str:
        """The tokenizer has the template."""
        tokenizer = run.plugin.engine.tokenizer
        text: str = tokenizer.apply_chat_template(self.written(chat), chat_template=chat_template, tokenize=False)
        return text

    def for_model(self, inputs: Inputs) -> Mapping[str, object]:
        """What the forward takes: everything in `data`, with positions, and beside it what its text model takes."""
        mask = torch.as_tensor(inputs["attention_mask"])
        data = {**inputs, "position_ids": (mask.cumsum(dim=1) - 1) * mask}
        return {"data": data, "input_ids": inputs["input_ids"], "attention_mask": mask}

    def _call(self, run: Run, texts: list[str], rows: list[list[Loaded]]) -> Inputs:
        has_video = {any(item.modality == "video" for item in row) for row in rows if any(map(_pictures, row))}
        if len(has_video) > 1:
            raise ValueError("rows with videos need other arguments of the call than rows with images alone")
        settings = _OF_VIDEO_CHATS if True in has_video else {}
        images = [[picture for item in row for picture in _pictures(item)] for row in rows]
        audio = [[item.data for item in row if item.modality == "audio"] for row in rows]
        # Audio in chunks, as the model's own chat calls it.
        heard = {"audios": audio, "chunk_input": True} if any(audio) else {}
        made = run.subject.processor(texts, images, **heard, **settings)
        mask = made["attention_mask"].long()
        ids = made["input_ids"].long().masked_fill(mask == 0, run.plugin.engine.tokenizer.pad_token_id)
        return {**made, "input_ids": ids, "attention_mask": mask}


def _parts(message: Message) -> list[Part]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else parts_of(message)


def _tagged(part: Part) -> str:
    """A part as MiniCPM's text has it."""
    if part["type"] == "video":
        return "\n".join([_TAGS["image"]] * len(part["video"]["indices"]))  # type: ignore[index]
    return str(part.get("text", _TAGS.get(str(part["type"]))))


def _pictures(item: Loaded) -> list[object]:
    """The images that MiniCPM is given of an item."""
    if item.modality == "video":
        return [tv.to_pil_image(frame) for frame in item.data]  # type: ignore[attr-defined]
    return [item.data] if item.modality == "image" else []


def _loaded(run: Run, chat: Chat) -> list[Loaded]:
    """A chat's media, decoded, in the order of the text."""
    processor = run.subject.processor
    return [
        Loaded("image", _opened(reference)) if kind == "image" else load(processor, kind, reference)
        for kind, reference in media_in(chat)
    ]


def _opened(image: object) -> PIL.Image.Image:
    return image if isinstance(image, PIL.Image.Image) else PIL.Image.open(str(image)).convert("RGB")


@contextmanager
def _padding(tokenizer: PreTrainedTokenizerBase, side: Side | None) -> Iterator[None]:
    """Sets where a tokenizer pads, for a while."""
    usual = tokenizer.padding_side
    tokenizer.padding_side = side or usual
    try:
        yield
    finally:
        tokenizer.padding_side = usual
