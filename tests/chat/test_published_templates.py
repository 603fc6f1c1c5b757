"""Every template of the trl wheel: what is trained is what the template's twin with generation tags says.

The oracle is transformers' own mask of the twin. Where a twin marks something else than the others do, that is stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources

import numpy as np
import pytest
from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from mmdatasets.chat.control_tokens import Piece
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.chat.tokenise import TextEncoder
from mmdatasets.errors import TemplateError
from mmdatasets.testing import build_tokenizer
from tests.chat.chats import CHATS, TOOLS, Messages, in_parts, with_headers

FOLDER = resources.files("trl").joinpath("chat_templates")
SOURCES = {path.name.removesuffix(".jinja"): path.read_text("utf-8") for path in FOLDER.iterdir() if path.name.endswith(".jinja")}
TEMPLATES = sorted(name for name in SOURCES if not name.endswith("_training"))
TWINS = [name for name in TEMPLATES if f"{name}_training" in SOURCES]
VARIABLES = {"bos_token": "<bos>", "eos_token": "<eos>"}

# The generation prompt is not trained, but these twins mark it, or the end of it.
MARKED_PROMPTS = {
    "deepseek_r1_distill": ("<\uff5cAssistant\uff5c>", "<\uff5ctool\u2581outputs\u2581end\uff5c>"),
    "deepseekv3": ("<\uff5cAssistant\uff5c>", "<\uff5ctool\u2581outputs\u2581end\uff5c>"),
    "gptoss": ("<|start|>assistant",),
    "muse_glimmer": ("<|start|>assistant",),
    "qwen2_5": ("\n",),
}
# The token that the model stops with after a tool call, which waits for the answer. Its twin leaves it out.
UNMARKED_ENDS = {"diffusion_gemma": "<|tool_response>"}


def cases() -> Iterator[tuple[str, Messages, list[object] | None]]:
    for name, chat in CHATS.items():
        tools = TOOLS if "call" in name else None
        yield name, chat, tools
        yield f"{name}, parts", in_parts(chat), tools


CASES = {name: (chat, tools) for name, chat, tools in cases()}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that has the template's own tokens."""
    tokens = re.findall(r"<[^<>\s'{}]+>|\[/?INST\]", SOURCES[name] + SOURCES.get(f"{name}_training", ""))
    return build_tokenizer([*dict.fromkeys(tokens), *VARIABLES.values()], **VARIABLES)


def rendered_by_transformers(source: str, chat: Messages, tools) -> str | None:
    try:
        return render_jinja_template([chat], tools=tools, chat_template=source, **VARIABLES)[0][0]
    except (JinjaError, TypeError, ValueError, KeyError, AttributeError):
        return None


def mask_of(tokenizer, text: str, spans) -> np.ndarray:
    return TextEncoder(tokenizer).encode([[Piece(text, 0, literal=False)]], [False])[0].written_in(spans)


def as_the_twin_marks(name: str, text: str, spans) -> list[tuple[int, int]]:
    """Our spans with the stated differences of a twin."""
    changed = []
    for start, end in spans:
        before = next((mark for mark in MARKED_PROMPTS.get(name, ()) if text.endswith(mark, 0, start)), "")
        after = UNMARKED_ENDS.get(name, "")
        changed.append((start - len(before), end - len(after) if after and text.endswith(after, start, end) else end))
    return changed


def compare(name: str, chat: Messages, tools) -> bool:
    """Compares our mask with the twin's; `False` if they render different texts, or none."""
    texts = [rendered_by_transformers(SOURCES[n], chat, tools) for n in (name, f"{name}_training")]
    if texts[0] is None or texts[0] != texts[1]:
        return False
    rendered = ChatTemplate(SOURCES[name], {**VARIABLES, "tools": tools}).render(chat)
    assert rendered.text == texts[0]
    tokenizer = tokenizer_of(name)
    expected = tokenizer.apply_chat_template(
        chat,
        tools=tools,
        chat_template=SOURCES[f"{name}_training"],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    spans = as_the_twin_marks(name, rendered.text, rendered.trained_spans)
    ours = mask_of(tokenizer, rendered.text, spans).astype(int).tolist()
    tokens = tokenizer.convert_ids_to_tokens(expected["input_ids"])
    assert list(zip(tokens, ours, strict=True)) == list(zip(tokens, expected["assistant_masks"], strict=True))
    return True


@pytest.mark.parametrize("name", TWINS)
def test_the_mask_is_the_twins(name: str) -> None:
    compared = [case for case, (chat, tools) in CASES.items() if compare(name, chat, tools)]
    assert len(compared) >= 4, compared
