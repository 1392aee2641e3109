"""Reading thousands of records without looking for garbage all the while."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["nothing_collected"]


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """Let Python look for no cycles of garbage meanwhile.

    Of what is read and stays there are none, and to look, again and again as objects become more,
    takes longer than to read.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
