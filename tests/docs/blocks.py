"""The fenced blocks of a page, and what each of them is for.

- `python`: runs, in the page's module; what it prints is compared with the `text` block that follows it directly.
- `sh`: each line is a command, which runs; see `tests.docs.commands`. Its output is compared likewise.
- `python`, `json`, `jsonl` and `yaml` with a `title="NAME"`: a file of that name, which a later block uses.
- `json`, `jsonl` and `yaml` without: must be that.
- `text` that follows no other block: shows something, and runs nothing.

In output that is shown, a line `...` stands for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r'^```(?P<language>[^\s`]*)(?: title="(?P<title>[^"]+)")?(?P<rest>[^\n]*)\n(?P<code>.*?)^```$'
    r"(?:\n\n```text\n(?P<shown>.*?)^```$)?",
    flags=re.MULTILINE | re.DOTALL,
)
LANGUAGES = ("python", "sh", "json", "jsonl", "yaml", "text")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: One of `LANGUAGES`.
        title: Name of the file that it is; `None` where it is none.
        code: What it holds.
        shown: What the page says that it prints; `None` where it says nothing.
        line: Where it stands in its page, from 1.
    """

    language: str
    title: str | None
    code: str
    shown: str | None
    line: int

    @property
    def needs_hub(self) -> bool:
        """Whether it runs where there is a hub alone."""
        return "push_to_hub(" in self.code


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: If a block's first line cannot be read, or its language is not known.
    """
    text = page.read_text("utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["language"] not in LANGUAGES or found["rest"]:
            raise ValueError(f"{page.name}, line {line}: a block of {found['language'] or 'no language'!r}")
        runs = found["language"] in ("python", "sh") and found["title"] is None
        if found["shown"] is not None and not runs:
            raise ValueError(f"{page.name}, line {line}: this block prints nothing, but output follows it")
        blocks.append(Block(found["language"], found["title"], found["code"], found["shown"], line))
    fences = len(re.findall(r"^ *```", text, flags=re.MULTILINE))
    if fences != 2 * sum(2 if block.shown is not None else 1 for block in blocks):
        raise ValueError(f"{page.name}: {fences} fences, which do not make {len(blocks)} blocks")
    return blocks


def matches(shown: str, printed: str) -> bool:
    """Whether this was printed, where a line `...` of what is shown stands for any lines, or none."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)]
    return re.fullmatch("(?:.*\n)*?".join(parts), printed) is not None
