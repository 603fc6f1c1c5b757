"""What the stand-ins share: they can be saved and loaded without a registration at transformers' Auto classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from transformers import PreTrainedTokenizerFast, ProcessorMixin

if TYPE_CHECKING:
    import os

    from transformers import BaseImageProcessor


class StandInProcessor(ProcessorMixin):  # type: ignore[misc]
    """A processor whose parts are an image processor of a known class and a fast tokenizer."""

    image_processor_type: ClassVar[type[BaseImageProcessor]]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Loads what `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: The folder.
            **kwargs: Not used: there is no hub to ask.
        """
        folder = Path(pretrained_model_name_or_path)
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        image_processor = cls.image_processor_type.from_dict(config["image_processor"])
        template = folder / "chat_template.jinja"
        return cls._assemble(
            folder,
            image_processor,
            PreTrainedTokenizerFast.from_pretrained(folder),
            template.read_text(encoding="utf-8") if template.exists() else None,
        )

    @classmethod
    def _assemble(
        cls,
        folder: Path,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None,
    ) -> Self:
        return cls(image_processor, tokenizer, chat_template=chat_template)
