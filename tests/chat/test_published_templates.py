"""Every template of the trl wheel: what is trained is what the template's twin with generation tags says.

The oracle is transformers' own mask of the twin. Where a twin marks something else than the others do, that is stated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from mmdatasets.chat.control_tokens import Piece
from mmdatasets.chat.layouts import find_layout
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.chat.tokenise import TextEncoder
from mmdatasets.chat.traced import Span
from mmdatasets.errors import TemplateError
from mmdatasets.testing import build_tokenizer
from tests.chat.chats import CHATS, TOOLS, Messages, call, in_parts, user, with_headers

SOURCES = {
    path.name.removesuffix(".jinja"): path.read_text("utf-8")
    for path in resources.files("trl").joinpath("chat_templates").iterdir()
    if path.name.endswith(".jinja")
}
TEMPLATES = sorted(name for name in SOURCES if not name.endswith("_training"))
TWINS = [name for name in TEMPLATES if f"{name}_training" in SOURCES]
PARTS_ONLY = ("idefics3", "llava_next", "smolvlm")
VARIABLES = {"bos_token": "<bos>", "eos_token": "<eos>"}

# The generation prompt is not trained, but these twins mark it, or the end of it.
MARKED_PROMPTS = {
    "deepseek_r1_distill": ("<\uff5cAssistant\uff5c>", "<\uff5ctool\u2581outputs\u2581end\uff5c>"),
    "deepseekv3": ("<\uff5cAssistant\uff5c>",),
    "gptoss": ("<|start|>assistant",),
    "muse_glimmer": ("<|start|>assistant",),
    "qwen2_5": ("\n",),
}
# With this token the model stops after a tool call, to wait for the answer; it is trained. The twin leaves it out.
UNMARKED_ENDS = {"diffusion_gemma": "<|tool_response>"}


def cases_of(name: str) -> dict[str, tuple[Messages, bool]]:
    """Conversations, some with the template's own header in what is said, and whether tools are given.

    With strings, unless the template takes parts alone; with parts as well, where it takes images.
    """
    chats = dict(CHATS)
    header = header_of(name)
    chats |= {f"{case}, header": with_headers(CHATS[case], header) for case in ("several turns", "user last")}
    found = {}
    for case, chat in chats.items():
        tools = case.startswith(("call", "answer"))
        found |= {} if name in PARTS_ONLY else {case: (chat, tools)}
        found |= {f"{case}, parts": (in_parts(chat), tools)} if "image" in SOURCES[name] else {}
    return found


@cache
def header_of(name: str) -> str:
    """What transformers writes where the assistant is to answer."""
    chat = CHATS["user last"]
    chat = in_parts(chat) if name in PARTS_ONLY else chat
    plain, prompted = (
        render_jinja_template([chat], chat_template=SOURCES[name], add_generation_prompt=prompt, **VARIABLES)[0][0]
        for prompt in (False, True)
    )
    return prompted.removeprefix(plain.removesuffix("<eos>"))


@cache
def template_of(name: str, tools: bool) -> ChatTemplate:
    return ChatTemplate(SOURCES[name], {**VARIABLES, "tools": TOOLS if tools else None})


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that has the template's own tokens."""
    tokens = re.findall(r"<[^<>\s'{}]+>|\[/?INST\]", SOURCES[name] + SOURCES.get(f"{name}_training", ""))
    return build_tokenizer([*dict.fromkeys(tokens), *VARIABLES.values()], **VARIABLES)


def by_transformers(name: str, chat: Messages, tools: bool, *, marked: bool = False) -> tuple[str, list[Span]] | None:
    """The text and its marks; `None` where the template refuses the conversation."""
    given = TOOLS if tools else None
    try:
        texts, marks = render_jinja_template(
            [chat], tools=given, chat_template=SOURCES[name], return_assistant_tokens_mask=marked, **VARIABLES
        )
    except (JinjaError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return texts[0], marks[0] if marked else []


def twins_additions(name: str, text: str, span: Span) -> tuple[str, str]:
    """What the twin marks before a span of ours, and what it leaves out at its end."""
    start, end = span
    before = next((mark for mark in MARKED_PROMPTS.get(name, ()) if text.endswith(mark, 0, start)), "")
    after = UNMARKED_ENDS.get(name, "")
    return before, after if after and text.endswith(after, start, end) else ""


def marked_characters(spans: Sequence[Span], length: int) -> list[bool]:
    marked = np.zeros(length, dtype=bool)
    for start, end in spans:
        marked[start:end] = True
    return marked.tolist()


def common_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        len(min(one, other, key=len)),
    )


def compare_characters(text: str, spans: Sequence[Span], twin: tuple[str, list[Span]], case: str) -> None:
    """Compares the marks of what two texts begin and end with."""
    ours, theirs = marked_characters(spans, len(text)), marked_characters(twin[1], len(twin[0]))
    same = common_length(text, twin[0])
    assert ours[:same] == theirs[:same], case
    # The white space that a common end begins with stands for different things.
    same = common_length(text[::-1], twin[0][::-1])
    same = len(text[len(text) - same :].lstrip())
    assert ours[len(text) - same :] == theirs[len(twin[0]) - same :], case


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_transformers_own_and_what_it_refuses_is_refused(name: str) -> None:
    num_rendered = 0
    for chat, tools in cases_of(name).values():
        expected = by_transformers(name, chat, tools)
        if expected is None:
            with pytest.raises(TemplateError, match=r"the chat template fails .* \(at line \d+: "):
                template_of(name, tools).render(chat)
            continue
        rendered = template_of(name, tools).render(chat)
        num_rendered += 1
        assert rendered.text == expected[0]
        spans = rendered.trained_spans
        assert all(start < end for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        trained = "\0".join(rendered.text[start:end] for start, end in spans)
        for message in chat:
            said = message.get("content", "")
            text = said if isinstance(said, str) else said[0]["text"]
            if message["role"] == "assistant" and text in rendered.text:
                assert text in trained
            elif message["role"] in ("tool", "system") or text.endswith("?"):
                assert text not in trained
    assert num_rendered >= 10


@pytest.mark.parametrize("name", TWINS)
def test_the_mask_is_the_twins(name: str) -> None:
    """Token by token where both render the same text, else character by character as far as they do."""
    tokenizer = tokenizer_of(name)
    num_compared, differences = 0, set()
    for case, (chat, tools) in cases_of(name).items():
        twin = by_transformers(f"{name}_training", chat, tools, marked=True)
        if twin is None or by_transformers(name, chat, tools) is None:
            continue
        rendered = template_of(name, tools).render(chat)
        text, spans = rendered.text, []
        for start, end in rendered.trained_spans:
            before, after = twins_additions(name, text, (start, end))
            differences |= {before, after}
            spans.append((start - len(before), end - len(after)))
        if text != twin[0]:
            compare_characters(text, spans, twin, case)
            continue
        num_compared += 1
        expected = tokenizer.apply_chat_template(
            chat,
            tools=TOOLS if tools else None,
            chat_template=SOURCES[f"{name}_training"],
            return_assistant_tokens_mask=True,
            return_dict=True,
        )
        encoded = TextEncoder(tokenizer).encode([[Piece(text, 0, literal=False)]], [False])[0]
        tokens = tokenizer.convert_ids_to_tokens(expected["input_ids"])
        assert encoded.ids.tolist() == expected["input_ids"]
        ours = encoded.written_in(spans).astype(int).tolist()
        assert list(zip(tokens, ours, strict=True)) == list(zip(tokens, expected["assistant_masks"], strict=True)), (
            case
        )
    assert num_compared >= 3
    stated = {*MARKED_PROMPTS.get(name, ()), UNMARKED_ENDS.get(name, "")}
    assert differences - {""} == stated - {""}


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_of_either_form_are_what_the_template_makes_of_its_own(name: str) -> None:
    """Of arguments in JSON (OpenAI's form) and as mappings, it is the form that transformers renders well."""
    template = template_of(name, tools=True)
    mapping, city = call("Rome", content=""), '"city": "Rome"'
    written = call("Rome", content="")
    written["tool_calls"][0]["function"]["arguments"] = f"{{{city}}}"
    form = template.call_form
    expected = by_transformers(name, [user("x"), written if form == "text" else mapping], tools=True)
    if form == "none" or expected is None:
        assert "tool_calls" not in SOURCES[name] or expected is None
        return
    for given in (mapping, written):
        chat = find_layout(["messages"]).messages({"messages": [user("x"), given]}, calls=form)
        text = template.render(chat).text
        assert text == expected[0]
        assert '\\"' not in text.rpartition("look_up")[2]
