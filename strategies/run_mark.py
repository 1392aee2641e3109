"""Whatever a run has started, found by a mark in its environment."""

from __future__ import annotations

import contextlib
import time

import psutil

__all__ = ["RUN_MARK", "processes_of", "wait_for_end"]

RUN_MARK = "SEDONA_NNI_RUN"  # in the environment of every process of a run


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the processes of a run.

    Args:
        mark: What `RUN_MARK` is in their environment.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or another user's
            if process.environ().get(RUN_MARK) == mark:
                found.append(process)
    return found


def wait_for_end(mark: str, seconds: float) -> None:
    """Wait until no process of a run is left, at most for so long."""
    give_up_at = time.monotonic() + seconds
    while processes_of(mark) and time.monotonic() < give_up_at:
        time.sleep(0.1)
