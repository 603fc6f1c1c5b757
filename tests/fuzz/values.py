"""Random values such as rows of chat datasets have, and such as none should have."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import torch

KEYS = (
    *("role", "content", "type", "text", "image", "video", "audio", "image_url", "video_url", "input_audio", "url"),
    *("path", "bytes", "data", "format", "from", "value", "tool_calls", "function", "arguments", "name", "train"),
    *("weight", "frames", "fps", "start", "end", "indices", "array", "sampling_rate", "tools", "system", "loss"),
)
ROLES = (
    "user",
    "assistant",
    "system",
    "tool",
    "human",
    "gpt",
    "function_call",
    "observation",
    "developer",
    "User",
    "",
)
PIECES = (
    *(
        "<image>",
        "<video>",
        "<audio>",
        "<image",
        "image>",
        "<<image>>",
        "<image><image>",
        "<|image_pad|>",
        "<|im_end|>",
    ),
    *(
        "What?",
        " ",
        "",
        "\n",
        "\0",
        "\ud800",
        "\U0001f600",
        "e\u0301",
        "\u202e",
        "{{ 1 / 0 }}",
        "{% raw %}",
        "%s",
        "{0}",
    ),
    *('{"name": "f", "arguments": {"a": 1}}', '[{"name": "f"}]', "[" * 2_000, "NaN", "null", "1e999", "9" * 5_000),
    *("data:image/png;base64,AAAA", "http://localhost/a.jpg", "a.jpg", "../a.jpg", "s3://b/a.mp4"),
)


class Text(str):
    """What subclasses of `str` are, NumPy's among them."""

    __slots__ = ()


def text(random: Random) -> str:
    """A text of pieces that mean something, and of characters that may be trouble."""
    made = "".join(random.choice(PIECES) for _ in range(random.choice((0, 1, 1, 2, 3, 6))))
    if random.random() < 0.2:
        made += "".join(chr(random.randrange(0x11_0000)) for _ in range(random.randrange(8)))
    return made


def scalar(random: Random) -> object:
    """A value that has no parts."""
    makers: Sequence[Callable[[], object]] = (
        lambda: None,
        lambda: text(random),
        lambda: random.choice(ROLES),
        lambda: random.choice((True, False, 0, 1, -1, 2**70, 10**400)),
        lambda: random.choice((0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308)),
        lambda: text(random).encode("utf-8", "replace"),
        lambda: bytearray(b"abc"),
        lambda: memoryview(b"abc"),
        lambda: random.choice((np.int64(3), np.float32("nan"), np.bool_(True), np.str_("<image>"), np.bytes_(b"a"))),
        lambda: Text("<image>"),
        lambda: complex(1, 2),
        object,
        lambda: text,
        lambda: int,
    )
    return random.choice(makers)()


def value(random: Random, depth: int = 3) -> object:
    """Any value."""
    if depth == 0 or random.random() < 0.4:
        return scalar(random)
    parts = [value(random, depth - 1) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    makers: Sequence[Callable[[], object]] = (
        lambda: parts,
        lambda: tuple(parts),
        lambda: {random.choice(KEYS): part for part in parts},
        lambda: {random.choice(KEYS): part for part in parts},
        lambda: types.MappingProxyType({random.choice(KEYS): part for part in parts}),
        lambda: {random.choice((1, None, ("a",), 2.5, b"role", "role")): part for part in parts},
        lambda: deque(parts),
        lambda: range(len(parts)),
        lambda: iter(parts),
        lambda: {len(parts)},
        lambda: np.array([[0.5, 1.0]] * len(parts)),
        lambda: torch.zeros(len(parts), 2),
    )
    return random.choice(makers)()


def message(random: Random) -> object:
    """A message, mostly as messages are."""
    if random.random() < 0.02:
        return value(random)
    form = random.random()
    if form < 0.6:
        role = random.choice(ROLES[:4]) if random.random() < 0.5 else "user"
        made: dict[object, object] = {"role": role, "content": content(random)}
    elif form < 0.8:
        made = {"from": random.choice(ROLES[:8]), "value": text(random)}
    else:
        made = {"role": "assistant", "content": None, "tool_calls": calls(random)}
    if random.random() < 0.1:
        made[random.choice(KEYS)] = value(random)
    if random.random() < 0.03 and made:
        made.pop(random.choice([*made]))
    return made


def content(random: Random) -> object:
    """What a message says."""
    if random.random() < 0.5:
        return text(random)
    return value(random) if random.random() < 0.03 else [part(random) for _ in range(random.randrange(4))]


def part(random: Random) -> object:
    """A content part."""
    kind = random.choice(("text", "image", "video", "audio", "image_url", "input_audio", "video_url"))
    makers: Sequence[Callable[[], object]] = (
        lambda: {"type": "text", "text": text(random)},
        lambda: {"type": kind},
        lambda: {"type": kind, kind: value(random)},
        lambda: {kind: {"url": value(random, 1)}},
        lambda: {"type": "input_audio", "input_audio": {"data": text(random), "format": "wav"}},
        lambda: {"type": kind, "text": None, "image": None, "path": text(random)},
        lambda: text(random),
        lambda: value(random),
    )
    return random.choice(makers[:2] if random.random() < 0.7 else makers)()


def calls(random: Random) -> object:
    """Calls of tools."""
    if random.random() < 0.2:
        return value(random)
    arguments = value(random) if random.random() < 0.3 else {"a": text(random)}
    call = {"name": text(random), "arguments": arguments}
    return [call if random.random() < 0.3 else {"type": "function", "function": call}]


def chat(random: Random) -> object:
    """A list of messages, mostly."""
    if random.random() < 0.03:
        return value(random)
    made = [message(random) for _ in range(random.choice((0, 1, 2, 2, 3, 5)))]
    return tuple(made) if random.random() < 0.1 else made


def references(random: Random) -> object:
    """A row's media of a modality."""
    if random.random() < 0.1:
        return None
    return [
        value(random, 2) if random.random() < 0.2 else f"{n}.jpg" for n in range(random.choice((0, 0, 1, 1, 2, 3)))
    ]


def fitting_references(random: Random, modality: str, given: object) -> list[object]:
    """As many as there seem to be places for: placeholders in text, and parts without a reference."""
    shown = repr(given)
    places = (
        f"<{modality}>",
        f"{{'type': '{modality}'}}",
        f"{{'type': '{modality}_url'}}",
        f"{{'type': 'input_{modality}'}}",
    )
    count = shown.count(random.choice(places)) if random.random() < 0.3 else sum(map(shown.count, places))
    return [f"{n}.jpg" for n in range(min(count, 50))]


def row(random: Random) -> dict[str, object]:
    """A row of any layout."""
    prompt = chat(random) if random.random() < 0.5 else text(random)
    layouts: Sequence[Callable[[], dict[str, object]]] = (
        lambda: {"messages": chat(random)},
        lambda: {"conversations": chat(random), "system": text(random)},
        lambda: {"prompt": prompt, "completion": chat(random) if random.random() < 0.7 else text(random)},
        lambda: {"instruction": text(random), "input": text(random), "output": text(random), "history": pairs(random)},
        lambda: {"text": text(random)},
        lambda: {"prompt": prompt, "chosen": answer(random), "rejected": answer(random)},
        lambda: {"chosen": answer(random), "rejected": answer(random)},
        lambda: {"messages": chat(random), "label": value(random, 1)},
        lambda: {"prompt": prompt, "completion": answer(random), "label": random.random() < 0.5},
    )
    made = random.choice(layouts)()
    if random.random() < 0.2:
        made["tools"] = tools(random)
    fits = random.random() < 0.8
    for name in ("images", "videos", "audios"):
        if fits:
            made[name] = fitting_references(random, name[:-1], made)
        elif random.random() < 0.5:
            made[name] = references(random)
    if random.random() < 0.15:
        made[random.choice([*made])] = value(random)
    return made


def answer(random: Random) -> object:
    """One answer, or a whole chat."""
    if random.random() < 0.7:
        said = text(random)
        return random.choice((said, [{"role": "assistant", "content": said}], {"role": "assistant", "content": said}))
    return random.choice((text, message, chat, value))(random)


def pairs(random: Random) -> object:
    """Turns before, as Alpaca has them."""
    return (
        value(random) if random.random() < 0.2 else [[text(random), text(random)] for _ in range(random.randrange(3))]
    )


def tools(random: Random) -> object:
    """A column of tools."""
    if random.random() < 0.3:
        return random.choice((text, value))(random)
    tool = {"name": text(random), "description": None, "parameters": value(random)}
    return random.choice(([tool], [{"type": "function", "function": tool}], '[{"name": "f"}]', [text(random)]))
