"""Computations that `benchmarks.side_by_side` times in other processes; the setting is a path."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch


def logged(setting: tuple[Path, str]) -> Callable[[], object]:
    """Leaves its name in a log each time."""
    path, name = setting

    def write() -> None:
        with path.open("a") as log:
            log.write(name)

    print("a side may print")
    return write


def large(mebibytes: int) -> Callable[[], object]:
    """Needs memory."""
    return partial(torch.ones, mebibytes * 2**18)


def killed(_setting: None) -> Callable[[], object]:
    """Meets the kernel's out-of-memory killer."""
    return partial(os.kill, os.getpid(), signal.SIGKILL)


def broken(_setting: None) -> Callable[[], object]:
    """Has a defect."""
    return partial(os._exit, 7)
