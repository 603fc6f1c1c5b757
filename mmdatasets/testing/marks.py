"""Chat templates with `{% generation %}` tags, made of templates without, so that transformers says what is trained.

The marked template renders the original one as a macro: the conversation up to a turn with the generation prompt, and
the conversation including the turn. What lies between both is what the assistant writes, and stands inside the tags,
but for three things, in which it follows published templates with tags:

- reasoning that a generation prompt begins (`<think>`) is the assistant's;
- spaces behind an end-of-turn token are the next turn's;
- where no end of turn is written (GLM), the token that begins the next turn is the assistant's.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdatasets.testing.processors import read_chat_template

# A turn that does not begin with the generation prompt (LLaVA-OneVision's) begins with its own first text instead.
_MARKED = """
{%%- macro conversation_of(messages, add_generation_prompt) -%%}
%s
{%%- endmacro -%%}
{%%- set whole = conversation_of(messages, add_generation_prompt) -%%}
{%%- set written = namespace(text='') -%%}
{%%- for message in messages -%%}
    {%%- if message['role'] == 'assistant' -%%}
        {%%- set content = message['content'] -%%}
        {%%- set text = content if content is string else content[0]['text'] -%%}
        {%%- set head = conversation_of(messages[:loop.index0], false) -%%}
        {%%- set prompted = conversation_of(messages[:loop.index0], true) -%%}
        {%%- set before = head ~ prompted[head | length:].split('<think>')[0] -%%}
        {%%- set after = conversation_of(messages[:loop.index], false) -%%}
        {%%- if after[:before | length] != before -%%}
            {%%- set before = head ~ after[head | length:].split(text)[0] -%%}
        {%%- endif -%%}
        {%%- set turn = after[before | length:].rstrip(' ') -%%}
        {%%- set rest = whole[before | length + turn | length:] -%%}
        {%%- if turn == text and rest[:2] == '<|' -%%}
            {%%- set turn = turn ~ rest.split('|>')[0] ~ '|>' -%%}
        {%%- endif -%%}
        {{- before[written.text | length:] -}}
        {%%- generation -%%}{{- turn -}}{%%- endgeneration -%%}
        {%%- set written.text = before ~ turn -%%}
    {%%- endif -%%}
{%%- endfor -%%}
{{- whole[written.text | length:] -}}
"""

# Templates that render a turn differently once more follow, and where their tags go.
_BY_HAND = {
    "qwen3_5": (
        (
            "{%- if loop.index0 > last.question -%}",
            "{%- generation -%}{%- if loop.index0 > last.question -%}",
        ),
        (
            "        {{- text -}}\n    {%- else -%}",
            "        {{- text ~ '<|im_end|>\\n' -}}{%- endgeneration -%}\n    {%- else -%}",
        ),
        (
            "        {{- text -}}\n    {%- endif -%}\n    {{- '<|im_end|>\\n' -}}",
            "        {{- text ~ '<|im_end|>\\n' -}}\n    {%- endif -%}",
        ),
    ),
}


def mark_generation(template: str) -> str:
    """Puts tags around what the assistant writes.

    The marked template renders the same text, unless the template renders a conversation's beginning differently once
    more turns follow, and is not marked by hand here: who uses it compares.

    Args:
        template: A Jinja chat template.

    Returns:
        A Jinja chat template with `{% generation %}` tags.
    """
    if "endgeneration" in template:
        return template
    for name, edits in _BY_HAND.items():
        if template == read_chat_template(name):
            for old, new in edits:
                template = template.replace(old, new)
            return template
    return _MARKED % template


def runs_of(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """The half-open ranges in which a mask is true."""
    padded = [False, *mask, False]
    edges = [index for index in range(len(mask) + 1) if padded[index] != padded[index + 1]]
    return list(zip(edges[0::2], edges[1::2], strict=True))


def find_runs(ids: Sequence[int], runs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[bool] | None:
    """Where runs of tokens stand in a row, one behind the other, each behind its context.

    Args:
        ids: The row.
        runs: Context and tokens of each run.

    Returns:
        A mask of the runs' tokens; `None` if one is not found.
    """
    row, mask, position = list(ids), [False] * len(ids), 0
    for context, own in runs:
        wanted = [*context, *own]
        starts = range(position, len(row) - len(wanted) + 1)
        found = next((start for start in starts if row[start : start + len(wanted)] == wanted), None)
        if found is None:
            return None
        position = found + len(wanted)
        mask[position - len(own) : position] = [True] * len(own)
    return mask
