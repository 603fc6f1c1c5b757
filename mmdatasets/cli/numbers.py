"""Numbers on the command line."""

from __future__ import annotations

import argparse


def not_negative(text: str, least: int = 0) -> int:
    """Parses a whole number, 0 or more.

    Raises:
        ArgumentTypeError: If it is less.
    """
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {number}")
    return number


def positive(text: str) -> int:
    """Parses a whole number, 1 or more."""
    return not_negative(text, least=1)
