"""Text that is no chat: what the data has is what the model reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.chat.labels import TrainOn
from mmdatasets.chat.template import Rendered
from mmdatasets.errors import ConversationError

if TYPE_CHECKING:
    from mmdatasets.chat.formats import Message
    from mmdatasets.types import Modality


@dataclass(frozen=True, slots=True)
class PlainText:
    """Stands in the place of a chat template for rows that are one text each.

    Attributes:
        write_item: Gives what is written for item number `index` of a modality.
        end: What ends a document, which the model is to learn too; nothing is added to a text that ends with it.
        train_on: What is trained: the whole text, unless that names messages, of which there are none.
    """

    write_item: Callable[[Modality, int], str]
    end: str = ""
    train_on: TrainOn = "assistant"

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text, all of it trained.

        Args:
            messages: One message, whose content is the text or its parts.

        Raises:
            ConversationError: If `train_on` asks for a message of several.
        """
        if self.train_on in ("last", "completion"):
            raise ConversationError(
                f"train_on={self.train_on!r} names messages, and plain text has none: leave train_on out to train "
                "the whole text"
            )
        seen: Counter[Modality] = Counter()
        text = ""
        for message in messages:
            content = message.get("content")
            if not isinstance(content, list):
                text += str(content or "")
                continue
            for part in content:
                if part["type"] == "text":
                    text += str(part["text"])
                    continue
                text += self.write_item(part["type"], seen[part["type"]])
                seen[part["type"]] += 1
        text = text if text.endswith(self.end) else text + self.end
        return Rendered(text, ((0, len(text)),) if text else ())
