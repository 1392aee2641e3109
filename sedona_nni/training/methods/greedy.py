"""Parallel greedy learning: every block learns from every batch, each from its own loss alone.

`greedy_step` is one step of it: each block computes its features and its own loss, goes backward at
once and is updated, before the next block starts. Only one block's activations and gradients are
alive at a time. With one block this is ordinary back-propagation.
Sources: Belilovsky et al., ICML 2020 (decoupled greedy learning); the public SEDONA release (one
optimizer and schedule per block).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, autocast, register_method
from sedona_nni.training.settings import Precision, TrainSettings

__all__ = ["GreedyLearning", "GreedySettings", "block_step", "greedy_step"]


class GreedySettings(MethodSettings):
    """Parallel greedy learning (DGL), and with one block back-propagation; it has no options."""

    name: Literal["greedy"] = "greedy"


def block_step(
    block: Block,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    criterion: nn.Module,
    scaler: torch.amp.GradScaler,
    amp: Precision = "no",
) -> tuple[Tensor, Tensor]:
    """Update a block once from its own loss.

    Args:
        block: The block, in training mode.
        optimizer: Its optimizer.
        features: What the block below returned, (B, C, S, S), or the images; without a graph.
        labels: Class numbers, (B,).
        criterion: Mean loss of logits and labels.
        scaler: Scales the loss against underflow in half precision; not updated here.
        amp: Mixed precision of the forward pass.

    Returns:
        What the block made of its input, and its loss, shape (), both before the update and
        without a graph.
    """
    with autocast(features.device, amp):
        features = block(features)
        loss, _ = block.local_loss(features, labels, criterion)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    optimizer.zero_grad()
    return features.detach(), loss.detach()  # the cut: nothing here learns from the block above


def greedy_step(
    network: DecoupledNetwork,
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    criterion: nn.Module,
    scaler: torch.amp.GradScaler,
    amp: Precision = "no",
) -> Tensor:
    """Update every block once, from the lowest up, each from its own loss alone.

    Block k's weights follow the gradient of its local loss l_k, which equals their gradient of
    l_1 + ... + l_K, because block k+1 reads its input as a constant. Going backward block by block
    frees what block k has stored before block k+1 runs.

    Args:
        network: The K blocks, in training mode.
        optimizers: One per block.
        images: Shape (B, C, S, S).
        labels: Class numbers, (B,).
        criterion: Mean loss of logits and labels.
        scaler: Scales losses against underflow in half precision; all blocks share it.
        amp: Mixed precision of the forward pass.

    Returns:
        The K local losses before the update, shape (K,).
    """
    losses = []
    features = images
    for block, optimizer in zip(network.blocks, optimizers, strict=True):
        features, loss = block_step(block, optimizer, features, labels, criterion, scaler, amp)
        losses.append(loss)
    scaler.update()
    return torch.stack(losses)


@register_method(GreedySettings)
class GreedyLearning(TrainingMethod):
    """Parallel greedy learning."""

    def __init__(
        self,
        network: DecoupledNetwork,
        settings: TrainSettings,
        splits: Splits,
        steps_per_epoch: int,
    ) -> None:
        """See `TrainingMethod`."""
        super().__init__(network, settings, splits, steps_per_epoch)
        self.optimize(network.blocks)

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Update every block once from the batch, see `greedy_step`."""
        losses = greedy_step(
            self.network,
            self.optimizers,
            images,
            labels,
            self.criterion,
            self.scaler,
            self.settings.amp,
        )
        for schedule in self.schedules:
            schedule.step()
        return dict(enumerate(losses))
