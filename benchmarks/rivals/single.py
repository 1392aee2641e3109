"""What one process does: back-propagation in its forms, and our blocks in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting, loss, sgd
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.models import Backbone
from sedona_nni.models.placement import lay_out, place
from sedona_nni.training.methods import block_step

__all__ = [
    "accumulated",
    "checkpointed",
    "in_turn",
    "plain",
    "steps",
]


def plain(setting: RivalSetting, _rank: int) -> Work:
    """Prepare back-propagation."""
    network = place(setting.network(), "cpu").train()
    return steps(network, network, *setting.batch())


def checkpointed(setting: RivalSetting, _rank: int) -> Work:
    """Prepare back-propagation that keeps the input of each layer and computes the rest again."""
    network = place(setting.network(), "cpu").train()
    for index, layer in enumerate(network.layers):
        network.layers[index] = _Checkpointed(layer)
    return steps(network, network, *setting.batch())


class _Checkpointed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.layer, features, use_reentrant=False)
        return out


def accumulated(setting: RivalSetting, _rank: int) -> Work:
    """Prepare back-propagation part by part, with one update by the sum of gradients."""
    network = place(setting.network(), "cpu").train()
    optimizer = sgd(network)
    parts = _parts(*setting.batch(), setting.accumulate)

    def step() -> None:
        for images, labels in parts:
            (loss(network(images), labels) / len(parts)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(step, [network], [optimizer])


def _parts(images: Tensor, labels: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(map(lay_out, images.chunk(count)), labels.chunk(count), strict=True))


def steps(
    network: Callable[[Tensor], Tensor], trained: Backbone, images: Tensor, labels: Tensor
) -> Work:
    """Prepare steps of a network.

    Args:
        network: Maps images to logits, maybe with others.
        trained: What has the weights.
        images: Of this process, (B, 3, S, S).
        labels: Class numbers, (B,).
    """
    optimizer = sgd(trained)

    def step() -> None:
        loss(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(step, [trained], [optimizer])


def in_turn(
    setting: RivalSetting, _rank: int, *, parts: int = 1, checkpoints: bool = False
) -> Work:
    """Prepare our blocks one after another, each with all parts of the batch."""
    network = place(build_decoupled(setting.network(), setting.decoupling), "cpu").train()
    for block in network.blocks:
        block.checkpointed = checkpoints
    optimizers = [sgd(block) for block in network.blocks]
    scaler, criterion = torch.amp.GradScaler("cpu", enabled=False), nn.CrossEntropyLoss()
    images, labels = setting.batch()
    work = Work(lambda: None, [network], optimizers)

    def step() -> None:
        features = images
        times = [time.perf_counter()]
        for block, optimizer in zip(network.blocks, optimizers, strict=True):
            features, *_ = block_step(
                block, optimizer, features, labels, criterion, scaler, accumulate=parts
            )
            times.append(time.perf_counter())
        work.block_s.append([end - start for start, end in pairwise(times)])

    work.step = step
    return work
