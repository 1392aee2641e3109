"""A pipeline with exact gradients, by torch: one stage per block, the batch in parts.

Process k has the layers of block k and no auxiliary network. Sources: Huang et al., NeurIPS 2019
(GPipe); Narayanan et al., SOSP 2019 (1F1B); Qi et al., ICLR 2024 (zero bubble, where gradients of
weights fill the time in which others wait; in a V, where each process has two stages).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import (
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting, loss, sgd
from sedona_nni.models.placement import place

__all__ = ["SCHEDULES", "in_stages"]

SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
    "zero_bubble_v": ScheduleZBVZeroBubble,
}
"""By name; those of zero bubble take a list of stages."""


class Stage(nn.Module):
    """The layers of a block, and in the last one the head.

    What travels is contiguous, as gloo demands, and still in the layout of trainings: feature maps
    are (B, H, W, C) on their way, and (B, C, H, W) within; tokens travel as they are. Zero bubble
    detaches in place what a stage sends, which a view does not allow, so there it is a copy.
    """

    def __init__(self, layers: nn.Module, *, first: bool, last: bool, copies: bool) -> None:
        super().__init__()
        self.layers, self._first, self._last, self._copies = layers, first, last, copies

    def forward(self, features: Tensor) -> Tensor:
        """Map what the stage below sends, or images, to what it sends itself, or logits."""
        maps = features.dim() == 4 and not self._first
        inside: Tensor = self.layers(features.permute(0, 3, 1, 2) if maps else features)
        if self._last:
            return inside
        sent = inside.permute(0, 2, 3, 1) if inside.dim() == 4 else inside
        return sent.clone() if self._copies else sent.contiguous()


def in_stages(setting: RivalSetting, rank: int, *, schedule: str, microbatches: int) -> Work:
    """Prepare the stages of one process."""
    backbone = place(setting.network(), "cpu").train()
    runs, count = setting.decoupling.blocks(backbone.num_layers), setting.num_blocks
    own = [rank, count - 1 - rank] if schedule == "zero_bubble_v" else [rank]
    zero_bubble = schedule.startswith("zero_bubble")
    stages = []
    for index in own:
        layers = [backbone.layers[layer] for layer in runs[index]]
        layers += [backbone.head] if index == count - 1 else []
        ends = {"first": index == 0, "last": index == count - 1}
        stage = Stage(nn.Sequential(*layers), **ends, copies=zero_bubble)
        stages.append(PipelineStage(stage, index, count, torch.device("cpu")))
    del backbone
    modules = [stage.submod for stage in stages]
    optimizer = sgd(nn.ModuleList(modules))
    plan = SCHEDULES[schedule](stages if zero_bubble else stages[0], microbatches, loss_fn=loss)
    images, labels = setting.batch()
    given = (images,) if 0 in own else ()

    def step() -> None:
        plan.step(*given, **({"target": labels, "losses": []} if count - 1 in own else {}))
        optimizer.step()
        optimizer.zero_grad()

    return Work(step, modules, [optimizer])
