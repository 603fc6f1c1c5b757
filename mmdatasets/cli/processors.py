"""Loads the model's processor that a command is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


def load_processor(name: str, *, trust_remote_code: bool = False) -> ProcessorMixin | PreTrainedTokenizerBase:
    """Loads a processor, or a text model's tokenizer.

    Args:
        name: A folder made with `save_pretrained`, or a name on the Hub.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        MMDatasetsError: If there is none.
    """
    from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin

    # A name on the Hub is NAME or OWNER/NAME.
    if not Path(name).is_dir() and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise MMDatasetsError("no such folder; expected one made with processor.save_pretrained", source=name)
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    # What a wrong name raises depends on where the look-up ends: OSError, ValueError, KeyError, network errors, ...
    except Exception as error:
        raise MMDatasetsError(
            f"cannot load a processor: {error}\nExpected a folder made with processor.save_pretrained, or a name on "
            "the Hugging Face Hub.",
            source=name,
        ) from error
    if not isinstance(processor, ProcessorMixin | PreTrainedTokenizerBase):
        raise MMDatasetsError(
            f"this is a {type(processor).__name__}; expected a processor, or the tokenizer of a text model",
            source=name,
        )
    return processor
