"""Texts from files and names, fit for a line of a terminal."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Ends of lines, what steers a terminal or turns the direction of writing, halves of characters
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text as one line: what would break it, or steer a terminal, as Python writes it.

    Examples:
        >>> from sedona_nni.printable import printable
        >>> print(printable("one\ntwo \x1b[31m red"))
        one\ntwo \x1b[31m red
    """
    return _UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text)
