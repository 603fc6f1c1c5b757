"""Facts in words, as the page and the text say them."""

from __future__ import annotations

from mmdatasets.preview.facts import Media, TokenSequence


def share(part: int, whole: int) -> str:
    """A share in percent, never 0% of something, nor 100% where something lacks."""
    if not whole or not part:
        return "0%"
    if part == whole:
        return "100%"
    percent = 100 * part / whole
    return "<1%" if percent < 1 else ">99%" if percent > 99 else f"{percent:.0f}%"


def tokens_in_words(sequence: TokenSequence) -> str:
    """How many tokens a sequence has, and of which kinds."""
    total = sequence.num_tokens
    parts = [f"{total:,} token{'' if total == 1 else 's'}"]
    if sequence.num_media:
        parts.append(f"{sequence.num_media:,} of media ({share(sequence.num_media, total)})")
    if sequence.num_trained is not None:
        parts.append(f"{sequence.num_trained:,} trained ({share(sequence.num_trained, total)})")
    if sequence.num_padding:
        parts.append(f"{sequence.num_padding:,} of padding beside them")
    return ", ".join(parts)


def size_in_words(item: Media) -> str | None:
    """The size of an item, and the one that the model sees."""
    if item.width is None:
        return None
    own, seen = f"{item.width}x{item.height}", f"{item.layout.width}x{item.layout.height}"
    if item.layout.width is None or own == seen:
        return f"{own} pixels"
    return f"{own} pixels, seen at {seen}"


def frames_in_words(item: Media) -> str | None:
    """How many of a video's frames the model sees."""
    if item.num_frames is None:
        return None
    rate = "" if item.fps is None else f" at {item.fps:g} a second"
    return f"{item.num_frames:,} of {item.num_source_frames or item.num_frames:,} frames{rate}"
