"""Parallel greedy learning: every block learns from every batch, each from its own loss alone.

In a step each block computes its features and its own loss, goes backward at once and is updated,
before the next block starts. Block k's weights follow the gradient of its local loss l_k, which
equals their gradient of l_1 + ... + l_K, because block k+1 reads its input as a constant. In one
process only one block's activations and gradients are alive at a time; in several, block k is at
batch n while block k+1 is at batch n-1. With one block this is ordinary back-propagation.
Sources: Belilovsky et al., ICML 2020 (decoupled greedy learning); the public SEDONA release (one
optimizer and schedule per block).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method, rewind
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["GreedyLearning", "GreedySettings"]


class GreedySettings(MethodSettings):
    """Parallel greedy learning (DGL), and with one block back-propagation; it has no options."""

    name: Literal["greedy"] = "greedy"
    takes_block_steps: ClassVar[bool] = True
    shows_images: ClassVar[bool] = True
    trains_above: ClassVar[bool] = True
    has_replicas: ClassVar[bool] = True
    takes_every_cut: ClassVar[bool] = True

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        return None


@register_method(GreedySettings)
class GreedyLearning(TrainingMethod):
    """Parallel greedy learning."""

    def __init__(
        self,
        network: DecoupledNetwork,
        settings: TrainSettings,
        splits: Splits,
        steps_per_epoch: int,
        stage: Stage | None = None,
    ) -> None:
        """See `TrainingMethod`."""
        super().__init__(network, settings, splits, steps_per_epoch, stage)
        self.optimize(network.blocks)

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Update every block once from the batch, from the lowest up."""
        losses = {}
        (features,) = self.stage.receive(images)
        below = lent = None
        for place in range(len(self.network.blocks)):
            rewind(self.stage.replica)
            done = self.block_step(place, features, labels, images, below, lent)
            losses[self.stage.first + place] = done.loss
            below = features if self.network.kind_above(place) == "previous" else None
            features, lent = done.features, done.lent
        self.stage.send(features)
        for schedule in self.schedules:
            schedule.step()
        return losses
