"""What is done to one process: killed, stopped, out of file descriptors, out of memory."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import psutil

from benchmarks.faults.fault import Fault
from benchmarks.faults.home import Command, Home
from benchmarks.faults.subject import Subject

__all__ = ["Killed", "OutOfDescriptors", "OutOfMemory", "Stopped"]

_STOPPED_S = 3.0
_MOST_DESCRIPTORS = 4  # that are left
_MOST_MIB = 32  # likewise


class Killed(Fault):
    """``kill -9``, as by the system when memory is short."""

    name = "killed"

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        process.kill()

    def is_said(self, victim: str, said: str) -> bool:
        """See `Fault.is_said`."""
        return re.search("killed|ended unexpectedly", said) is not None


class Stopped(Fault):
    """``kill -STOP``, in place of whatever lets a process be there and do nothing."""

    name = "stopped"

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        process.suspend()

    def is_said(self, victim: str, said: str) -> bool:
        """See `Fault.is_said`; a command that is stopped itself says nothing."""
        return victim == "command" or re.search("stopped|no sign of life", said) is not None

    def mend(self, process: psutil.Process, command: Command, goes_on: bool) -> bool:
        """See `Fault.mend`."""
        is_command = process.pid == command.process.pid
        time.sleep(_STOPPED_S if is_command else 0)
        if not goes_on:
            command.interrupt()
        if goes_on or is_command:
            with contextlib.suppress(psutil.Error):
                process.resume()
        return not goes_on


class OutOfDescriptors(Fault):
    """It can open hardly any file any more."""

    name = "out of file descriptors"
    reasons = ("sedona-nni: ", "Too many open files")

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        limit = process.num_fds() + round(self.draw * _MOST_DESCRIPTORS)
        process.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))


class OutOfMemory(Fault):
    """It gets hardly any memory any more."""

    name = "out of memory"
    reasons = ("sedona-nni: ", "MemoryError", "allocate memory", "bad_alloc", "start new thread")

    def fits(self, subject: Subject, victim: str) -> bool:
        """See `Fault.fits`."""
        return victim in subject.computing

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        limit = process.memory_info().vms + round(self.draw * _MOST_MIB) * 2**20
        process.rlimit(psutil.RLIMIT_AS, (limit, limit))
