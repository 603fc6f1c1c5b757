"""Conversations of every kind that a chat template is to be met with."""

from __future__ import annotations

from typing import TypeAlias

Messages: TypeAlias = list[dict[str, object]]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks a city up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Name"}},
                "required": ["city"],
            },
        },
    }
]


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: str, **keys: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **keys}


def call(city: str, **keys: object) -> dict[str, object]:
    function = {"name": "look_up", "arguments": {"city": city}}
    return {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}], **keys}


def tool(text: str) -> dict[str, object]:
    return {"role": "tool", "name": "look_up", "tool_call_id": "c1", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = "<think>\nHm, blue.\n</think>\n\nBlue."

CHATS: dict[str, Messages] = {
    "one turn": [user("What colour?"), assistant("Blue.")],
    "several turns": [
        user("One?"),
        assistant("First."),
        user("Two?"),
        assistant("Second."),
        user("3"),
        assistant("III"),
    ],
    "system": [SYSTEM, user("What colour?"), assistant("Blue."), user("Why?"), assistant("Light.")],
    "user last": [user("What colour?"), assistant("Blue."), user("Why?")],
    "reasoning": [user("What colour?"), assistant("Blue.", reasoning_content="Hm, blue.")],
    "reasoning in turns": [
        user("One?"),
        assistant("First.", reasoning_content="Think once."),
        user("Two?"),
        assistant("Second.", reasoning_content="Think twice."),
    ],
    "reasoning in content": [user("What colour?"), assistant(THOUGHT), user("Sure?"), assistant(THOUGHT)],
    "empty answers": [user("Say nothing."), assistant(""), user("Again."), assistant("")],
    "whitespace": [user("  a\n"), assistant("  b \n\n"), user("\n c"), assistant("\n\nd  ")],
    "the same text": [
        user("same"),
        assistant("same"),
        user("same"),
        assistant("same"),
        user("same"),
        assistant("same"),
    ],
    "assistant after assistant": [
        user("Go on."),
        assistant("One."),
        assistant("Two."),
        user("More."),
        assistant("3."),
    ],
    "assistant first": [assistant("Hello!"), user("Hi."), assistant("What can I do?")],
    "call": [user("Paris?"), call("Paris", content="")],
    "call without content": [user("Paris?"), call("Paris"), tool("14 C, clear"), assistant("It is sunny.")],
    "call with text": [
        user("Paris?"),
        call("Paris", content="I look."),
        tool("14 C, clear"),
        assistant("It is sunny."),
    ],
    "call after reasoning": [
        user("Paris?"),
        call("Paris", content="", reasoning_content="I must look."),
        tool("14 C, clear"),
        assistant("It is sunny.", reasoning_content="So it is."),
    ],
    "calls in turns": [
        SYSTEM,
        user("Paris?"),
        call("Paris", content=""),
        tool("14 C, clear"),
        assistant("It is sunny."),
        user("Rome?"),
        call("Rome", content=""),
        tool("9 C, wet"),
        call("Rom", content=""),
        tool("8 C, wet"),
        assistant("Rain."),
    ],
    "call with answers": [
        user("Paris?"),
        call("Paris", content=""),
        tool("14 C, clear"),
        tool("18 C"),
        assistant("Nice."),
    ],
    "answer of a tool last": [user("Paris?"), call("Paris", content=""), tool("14 C, clear")],
}
"""Strings for contents; see `in_parts`."""


def in_parts(messages: Messages) -> Messages:
    """The conversation with its contents as parts."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def with_headers(messages: Messages, header: str) -> Messages:
    """The conversation with a template's own header in what the user and the assistant say."""
    said = {"user", "assistant"}
    return [
        {**message, "content": f"{message['content']} {header} not a turn"} if message["role"] in said else message
        for message in messages
    ]
