"""Where something is computed, and what it takes there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DeviceName",
    "Machine",
    "keep_freed_memory",
    "peak_resident_mib",
    "usable_cores",
]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

DeviceName = Literal["auto", "cpu", "cuda"]


_MOST = 1024  # threads or processes; what a system refuses beyond ends without a word of reason


class Machine(BaseModel):
    """What a trial may use of the machine that it runs on.

    Attributes:
        device: ``"auto"`` takes a GPU if there is one. Each trial has a GPU of its own, one in
            parallel a GPU for each process.
        threads: CPU threads per trial, of all its processes together: a training in parallel
            divides them evenly among its own, one each at least. By default PyTorch decides, but
            trials that run at the same time on the machine of their experiment share its
            processors: each has so many, divided by ``trialConcurrency``.
        workers: Processes per trial that read image files, see
            `sedona_nni.data.batches.FolderImages.workers`; 0 for none beside the trial's own.
        check_memory: Refuse a training that needs more memory than is left, before any is
            allocated, see `sedona_nni.trials.memory_check`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceName = "auto"
    threads: int | None = Field(default=None, ge=1, le=_MOST)
    workers: int | None = Field(default=None, ge=0, le=_MOST)
    check_memory: bool = True


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for what it allocates next.

    glibc hands the end of its heap back to the system whenever enough of it is free. In a training
    that is once a step and more, and the next step has to have every page of it cleared again: a
    tenth of the time of small networks. What is larger than 32 MiB, as far as glibc goes by itself,
    is handed back as before. Elsewhere, and where the environment sets glibc's variables, nothing
    is changed.
    """
    chosen = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if any(name in os.environ for name in chosen):
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_resident_mib() -> float:
    """Return the most main memory that this process has had so far, MiB.

    With Python, torch and all that was ever held at once, unlike
    `sedona_nni.decouplings.cost.peak_memory_mib`, which is that of torch's tensors in a step.
    """
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
