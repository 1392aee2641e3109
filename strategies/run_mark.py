"""Whatever a run has started, found by a mark in its environment."""

from __future__ import annotations

import contextlib
import os
import time
import uuid

import psutil

__all__ = ["RUN_MARK", "new_mark", "processes_of", "stopped_processes", "wait_for_end"]

RUN_MARK = "SEDONA_NNI_RUN"  # in the environment of every process of a run


def new_mark() -> str:
    """Return a mark for a run of this process; it begins with this process's number."""
    return f"{os.getpid()}-{uuid.uuid4().hex}"


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


def stopped_processes(mark: str) -> list[psutil.Process]:
    """Return the processes of a run that a signal has stopped: they wait for another to go on."""
    found = []
    for process in processes_of(mark):
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                found.append(process)
    return found
