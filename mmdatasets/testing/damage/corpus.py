"""The corpus: every kind of damage, done to every format that can take it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from mmdatasets.testing.damage.audio_headers import audio_damage
from mmdatasets.testing.damage.contents import FileDamage, file_damage
from mmdatasets.testing.damage.formats import MediaFormat, media_formats
from mmdatasets.testing.damage.image_headers import image_damage
from mmdatasets.testing.damage.places import PlaceDamage, place_damage
from mmdatasets.testing.damage.video_headers import container_damage

if TYPE_CHECKING:
    import os

    from mmdatasets.types import Modality

UNDAMAGED = "undamaged"
WRONG_EXTENSION = "wrong extension"
NO_EXTENSION = "no extension"


@dataclass(frozen=True, slots=True)
class DamageKind:
    """A way in which media may be damaged.

    Attributes:
        name: What is wrong.
        of_file: What damages the content of a file; `None` where that is not what is wrong.
        of_place: What makes a reference that leads elsewhere; `None` likewise.
    """

    name: str
    of_file: FileDamage | None = None
    of_place: PlaceDamage | None = None


@dataclass(frozen=True, slots=True)
class DamagedItem:
    """An item of the corpus.

    Attributes:
        kind: Name of the damage.
        format: Name of the format that was damaged.
        modality: As what the item is to be used.
        reference: What a row would have: a path, bytes, a file object, or anything else.
        needs_no_rights: Whether it is damage only to who may not read everything, as root may.
    """

    kind: str
    format: str
    modality: Modality
    reference: object
    needs_no_rights: bool = False

    @property
    def name(self) -> str:
        """Kind and format."""
        return f"{self.format}, {self.kind}"


def _kinds() -> dict[str, DamageKind]:
    kinds = {UNDAMAGED: DamageKind(UNDAMAGED, _as_it_is)}
    for damage in (file_damage(), image_damage(), container_damage(), audio_damage()):
        for name, of_file in damage.items():
            first = kinds[name].of_file if name in kinds else None  # a word that two modalities share
            kinds[name] = DamageKind(name, of_file if first is None else partial(_either, first=first, second=of_file))
    for name in (WRONG_EXTENSION, NO_EXTENSION):
        kinds[name] = DamageKind(name, _as_it_is)
    return kinds | {name: DamageKind(name, of_place=of_place) for name, of_place in place_damage().items()}


def _as_it_is(data: bytes, *_: object) -> bytes:
    return data


def _either(
    data: bytes, format: MediaFormat, random: Random, *, first: FileDamage, second: FileDamage
) -> bytes | None:
    found = first(data, format, random)
    return second(data, format, random) if found is None else found


DAMAGE_KINDS: Mapping[str, DamageKind] = _kinds()
"""Every kind of damage by name."""


def damaged_corpus(
    folder: str | os.PathLike[str],
    seed: int = 0,
    *,
    kinds: Collection[str] | None = None,
    formats: Collection[str] | None = None,
) -> Iterator[DamagedItem]:
    """Makes damaged media, one item at a time.

    Each kind that damages a file is done to each format, where that has what is damaged; a reference that leads
    nowhere, or is none, comes once for each modality. The same arguments give the same items, but for numbers that
    encoders draw themselves.

    Args:
        folder: Where files are written; it is made.
        seed: Of the bits that are flipped, and of which files are given as bytes instead of a path.
        kinds: Names of the kinds to do; all of `DAMAGE_KINDS` when `None`.
        formats: Names of the formats to damage; all of `media_formats` when `None`.

    Yields:
        The items, by format.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[Modality] = set()
    for format in media_formats():
        if formats is not None and format.name not in formats:
            continue
        is_first = format.modality not in seen
        seen.add(format.modality)
        for number, kind in enumerate(DAMAGE_KINDS.values()):
            if kinds is not None and kind.name not in kinds:
                continue
            path = folder / f"{format.name}-{number}{format.suffix}"
            if kind.of_place is not None and is_first:
                reference = kind.of_place(format, path)
                yield DamagedItem(kind.name, format.name, format.modality, reference, kind.name == "permission denied")
            elif kind.of_file is not None:
                yield from _damaged_file(kind, format, path, Random(f"{seed} {format.name} {kind.name}"))


def _damaged_file(kind: DamageKind, format: MediaFormat, path: Path, random: Random) -> Iterator[DamagedItem]:
    assert kind.of_file is not None
    data = kind.of_file(format.valid, format, random)
    if data is None or (data == format.valid and kind.of_file is not _as_it_is):
        return
    if kind.name == NO_EXTENSION:
        path = path.with_suffix("")
    elif kind.name == WRONG_EXTENSION:
        path = path.with_suffix(random.choice([own.suffix for own in media_formats() if own.suffix != format.suffix]))
    elif random.random() < 0.25:
        yield DamagedItem(kind.name, format.name, format.modality, data)
        return
    path.write_bytes(data)
    yield DamagedItem(kind.name, format.name, format.modality, str(path))
