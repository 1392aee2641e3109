"""Computations for `benchmarks.side_by_side` to time in other processes, and a small setting."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.search_steps import StepSetting

SMALL = StepSetting(
    step="meta-step",
    backbone="vgg11",
    aux=("conv1", "conv4"),
    batch_size=2,
    inner_steps=1,
    validation_batch_size=2,
    width_multiplier=0.125,
)
"""A step that takes a moment."""


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
