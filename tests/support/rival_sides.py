"""Parts of rivals that fail, for other processes."""

from __future__ import annotations

import os
import signal

import torch
import torch.distributed as dist

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting

TINY = RivalSetting(
    backbone="vgg11",
    width_multiplier=0.125,
    batch_size=8,
    cuts=(2,),
    processes=2,
    microbatches=(4,),
    warm_up=1,
    steps=2,
    timeout_s=60,
)
"""A step that takes a moment."""


def one_fails(_setting: RivalSetting, rank: int, *, killed: bool) -> Work:
    """The first process waits for the second, which fails."""

    def step() -> None:
        if rank == 0:
            dist.recv(torch.empty(1), 1)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("broken\nin many words")

    return Work(step, [], [])
