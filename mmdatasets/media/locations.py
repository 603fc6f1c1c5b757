"""Locations of media as text: paths, URLs, `data:` URIs, and how messages name them."""

from __future__ import annotations

import base64
import binascii
import os
import re
import urllib.parse

from mmdatasets.errors import MediaReferenceError

# A scheme has two letters or more: `C://` is a drive. `::` chains filesystems, as in `zip://a.png::s3://bucket/a.zip`.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(?:://|::)")
_LONGEST_SHOWN = 120


def is_data_uri(location: str) -> bool:
    """Whether the text is a `data:` URI."""
    return location[:5].lower() == "data:"


def data_uri_bytes(uri: str) -> bytes:
    """The bytes that a `data:` URI holds.

    Raises:
        MediaReferenceError: If it is not in base64.
    """
    header, comma, payload = uri[5:].partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise MediaReferenceError(
            "a data: URI must read data:<media type>;base64,<data>", source=describe_location(uri)
        )
    try:
        # Some writers break lines, escape characters for URLs, or drop the padding.
        text = re.sub(r"\s+", "", urllib.parse.unquote(payload) if "%" in payload else payload)
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaReferenceError(
            f"the data: URI is not valid base64: {error}", source=describe_location(uri)
        ) from error


def describe_location(location: str | bytes) -> str:
    """A path, URL or `data:` URI for messages: short, without credentials."""
    text = os.fsdecode(location)
    if is_data_uri(text):
        media_type = text[5:].partition(",")[0].partition(";")[0][:40]
        return f"data: URI {media_type} ({len(text):,} characters)".replace("  ", " ")
    if URL.match(text):
        # Signed URLs carry credentials in the query, and some in the user part.
        text = re.sub(r"(?<=://)[^/@]*@", "", text.partition("?")[0])
    return shorten(text)


def shorten(text: str) -> str:
    """The beginning and the end of a long text, in one line."""
    text = text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\0", "\\0")
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[:40]}...{text[-(_LONGEST_SHOWN - 43) :]}"
