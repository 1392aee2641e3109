"""Our blocks in parallel: process k has block k alone, and features travel upward.

What passes between processes is `sedona_nni.training.parallel.rank_stage.RankStage`, and a step is
that of greedy learning, as in a training.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting, sgd
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.models.placement import place
from sedona_nni.training.methods import block_step
from sedona_nni.training.parallel.layout import Layout
from sedona_nni.training.parallel.rank_stage import RankStage

__all__ = ["in_parallel"]

_WIRES = {"float32": torch.float32, "bf16": torch.bfloat16}


def in_parallel(setting: RivalSetting, rank: int, *, parts: int = 1, wire: str = "float32") -> Work:
    """Prepare block ``rank``, and its part of each step.

    Args:
        setting: At what sizes.
        rank: Which block.
        parts: In how many a block takes the batch.
        wire: What features travel in, ``float32`` or ``bf16``.
    """
    block = build_decoupled(setting.network(), setting.decoupling).blocks[rank]
    place(block, "cpu").train()
    optimizer, scaler = sgd(block), torch.amp.GradScaler("cpu", enabled=False)
    images, labels = setting.batch()
    criterion = nn.CrossEntropyLoss()
    layout, dtype = Layout((1,) * setting.num_blocks), _WIRES[wire]
    stage = RankStage(layout, rank, torch.device("cpu"), wire=dtype)
    stage.open([setting.batch_size] * setting.total_steps)
    work = Work(lambda: None, [block], [optimizer])

    def step() -> None:
        (features,) = stage.receive(images)
        start = time.perf_counter()
        features, *_ = block_step(
            block, optimizer, features, labels, criterion, scaler, accumulate=parts
        )
        work.busy_s.append(time.perf_counter() - start)
        stage.send(features)

    work.step = step
    # What all say to each other comes after what has been sent
    work.close = lambda: stage.exchange(None)
    return work
