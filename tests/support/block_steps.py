"""A step of greedy learning without a method around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.training.methods import block_step
from sedona_nni.training.settings import Precision

__all__ = ["greedy_step"]


def greedy_step(
    network: DecoupledNetwork,
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    criterion: nn.Module,
    amp: Precision = "no",
) -> Tensor:
    """Update every block once, from the lowest up; return the losses before, (K,)."""
    losses, features = [], images
    for block, optimizer in zip(network.blocks, optimizers, strict=True):
        scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
        features, loss, _ = block_step(
            block, optimizer, features, labels, criterion, scaler, amp, images=images
        )
        losses.append(loss)
    return torch.stack(losses)
