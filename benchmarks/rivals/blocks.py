"""Our blocks in parallel: process k has block k alone, and features travel upward.

A block computes on batch n while the one above it is still at batch n-1. Two buffers in turn
receive, so that the features of batch n+1 arrive while batch n is worked on, and two batches may
be on their way up. Feature maps travel as they lie in memory, channels last.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting, sgd
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.models import FeatureShape
from sedona_nni.models.placement import place
from sedona_nni.training.methods import block_step

__all__ = ["in_parallel"]

_AHEAD = 2


def in_parallel(setting: RivalSetting, rank: int) -> Work:
    """Prepare block ``rank``, and its part of each step."""
    backbone = setting.network()
    shapes: list[FeatureShape] = [backbone.boundaries[cut] for cut in setting.cuts]
    block = build_decoupled(backbone, setting.decoupling).blocks[rank]
    del backbone
    place(block, "cpu").train()
    optimizer, scaler = sgd(block), torch.amp.GradScaler("cpu", enabled=False)
    images, labels = setting.batch()
    criterion = nn.CrossEntropyLoss()
    first, last = rank == 0, rank == setting.num_blocks - 1
    receives: list[dist.Work | None] = [None] * _AHEAD
    sends: list[tuple[dist.Work | None, Tensor]] = []
    buffers: list[Tensor] = []
    if not first:
        shape = shapes[rank - 1]
        size = (setting.batch_size, shape.size, shape.size, shape.channels)
        buffers = [torch.empty(size) for _ in range(_AHEAD)]
        receives = [dist.irecv(buffer, rank - 1) for buffer in buffers]
    work = Work(lambda: None, [block], [optimizer])
    done = 0

    def step() -> None:
        nonlocal done
        slot = done % _AHEAD
        features = images
        if not first:
            _wait(receives[slot])
            features = buffers[slot].permute(0, 3, 1, 2)
        start = time.perf_counter()
        features, _ = block_step(block, optimizer, features, labels, criterion, scaler)
        work.busy_s.append(time.perf_counter() - start)
        if not first and done + _AHEAD < setting.total_steps:
            receives[slot] = dist.irecv(buffers[slot], rank - 1)
        if not last:
            if len(sends) == _AHEAD:
                _wait(sends.pop(0)[0])
            sent = features.permute(0, 2, 3, 1).contiguous()
            sends.append((dist.isend(sent, rank + 1), sent))  # which has to live until it is gone
        done += 1

    def close() -> None:
        for each, _ in sends:
            _wait(each)

    work.step, work.close = step, close
    return work


def _wait(work: dist.Work | None) -> None:
    assert work is not None
    work.wait()
