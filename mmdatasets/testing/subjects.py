"""The families of this package as subjects of the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from mmdatasets.testing.conformance import Subject
from mmdatasets.testing.flat_oracle import flat_oracle
from mmdatasets.testing.models import build_model
from mmdatasets.testing.oracles import suffix_oracle
from mmdatasets.testing.processors import build_processor, get_spec, list_processors

if TYPE_CHECKING:
    from mmdatasets.testing.oracles import Oracle

_ORACLES: Mapping[str, Oracle] = {"got_ocr2": flat_oracle, "paligemma": suffix_oracle}

_UNMASKED = (
    "the model's cross attention lets tokens that no image precedes see the batch's padding images like any other, so "
    "that they depend on what the row is padded with"
)
_EXCEPTIONS: Mapping[str, Mapping[tuple[str, str], str]] = {
    "mllama": {
        ("logits", "rows of different counts"): _UNMASKED,
        ("logits", "mixed batch"): _UNMASKED,
        ("ensured media", "text only"): _UNMASKED,
    }
}


def named_subjects() -> list[Subject]:
    """The processors that a plugin of the registry is made for."""
    return [_subject(name) for name in list_processors() if get_spec(name).plugin != "generic"]


def generic_subjects() -> list[Subject]:
    """The processors that the generic plugin takes without a line of code about them."""
    return [_subject(name) for name in list_processors() if get_spec(name).plugin == "generic"]


def _subject(name: str) -> Subject:
    return Subject(
        name,
        partial(build_processor, name),
        partial(build_model, name) if get_spec(name).has_model else None,
        oracle=_ORACLES.get(name),
        exceptions=_EXCEPTIONS.get(name, {}),
    )
