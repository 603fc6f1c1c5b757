"""Which messages of a chat are trained: `train_on`, and what the messages themselves say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from mmdatasets.chat.formats import Message
from mmdatasets.errors import ConversationError

TrainOn: TypeAlias = Literal["assistant", "last", "completion", "all"]
"""What is trained of a chat.

- `"assistant"`: every message of the assistant;
- `"last"`: the last one;
- `"completion"`: the last one and those before it with nothing but tools' answers in between: what follows the prompt;
- `"all"`: the whole text, tools' answers included.

Media tokens never are. A message with `"train": False`, or `"weight": 0` as OpenAI's fine-tuning format has it, is
left out of each.
"""

TRAIN_ON: tuple[TrainOn, ...] = get_args(TrainOn)
_SWITCHES = ("train", "weight")
_PROMPT_ROLES = ("user", "system", "developer")


def take_switches(messages: Sequence[Message], train_on: TrainOn) -> tuple[list[Message], list[bool]]:
    """Takes the keys `train` and `weight` out of messages.

    Returns:
        The messages without them, and for each whether it may be trained.

    Raises:
        ConversationError: If `train` is no boolean, `weight` neither 0 nor 1, the two contradict each other, or a
            message that is not the assistant's is to be trained.
    """
    allowed = [_may_be_trained(message, index, train_on) for index, message in enumerate(messages)]
    if not any(switch in message for message in messages for switch in _SWITCHES):
        return list(messages), allowed
    bare = [{key: value for key, value in message.items() if key not in _SWITCHES} for message in messages]
    return bare, allowed


def _may_be_trained(message: Message, index: int, train_on: TrainOn) -> bool:
    train, weight = message.get("train"), message.get("weight")
    if train is None and weight is None:
        return True
    if train is not None and not isinstance(train, bool):
        raise ConversationError(f"message {index}: 'train' must be true or false, got {train!r}")
    if weight is not None and (not isinstance(weight, int | float) or weight not in (0, 1)):
        raise ConversationError(
            f"message {index}: 'weight' must be 0 or 1, got {weight!r}; a message is trained or it is not, since "
            "labels have no degrees"
        )
    if train is not None and weight is not None and train != bool(weight):
        raise ConversationError(
            f"message {index} has 'train': {train} and 'weight': {weight!r}; leave one of them out"
        )
    wanted = bool(weight) if train is None else train
    if wanted and message["role"] != "assistant" and train_on != "all":
        raise ConversationError(
            f"message {index} is to be trained, but it is the {message['role']}'s: only what the assistant writes is. "
            "Remove 'train' and 'weight' from it, or train_on='all' text"
        )
    return wanted


def chosen_messages(roles: Sequence[str], allowed: Sequence[bool], train_on: TrainOn) -> list[int]:
    """Positions of the assistant's messages that are trained.

    Args:
        roles: The role of each message.
        allowed: Whether each may be trained.
        train_on: What is trained.
    """
    turns = [index for index, role in enumerate(roles) if role == "assistant"]
    if train_on == "last":
        turns = turns[-1:]
    elif train_on == "completion" and turns:
        prompt = max((index for index in range(turns[-1]) if roles[index] in _PROMPT_ROLES), default=-1)
        turns = [index for index in turns if index > prompt]
    return [index for index in turns if allowed[index]]
