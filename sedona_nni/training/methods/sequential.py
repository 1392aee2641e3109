"""Sequential greedy learning: one block after the other, each on what the finished ones return.

Block n learns for ``epochs`` epochs while the blocks below it are frozen: their weights stay as
they are, and they run in evaluation mode, so that batch norms keep their statistics and nothing is
dropped. Each block has the same schedule. A training of K blocks thus takes K times ``epochs``
epochs. Above the block that learns nothing is computed.
Source: Belilovsky et al., ICML 2020, the comparison of sequential and parallel training.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.training.method_settings import MethodSettings
from sedona_nni.training.methods.method import TrainingMethod, register_method, rewind
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["SequentialLearning", "SequentialSettings"]


class SequentialSettings(MethodSettings):
    """Greedy learning of one block after the other; it has no options."""

    name: Literal["sequential"] = "sequential"
    takes_block_steps: ClassVar[bool] = True
    shows_images: ClassVar[bool] = True
    has_replicas: ClassVar[bool] = True

    @property
    def not_parallel(self) -> str | None:
        """See `MethodSettings.not_parallel`."""
        return None


@register_method(SequentialSettings)
class SequentialLearning(TrainingMethod):
    """Sequential greedy learning.

    Attributes:
        learning: Index of the block that learns, in the whole network; those below are finished.
    """

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
        self.learning = 0

    @property
    def num_epochs(self) -> int:
        """Those of all blocks, one after the other."""
        return self.stage.num_blocks * self.settings.epochs

    @property
    def num_validated(self) -> int:
        """The blocks that are finished and the one that learns."""
        return self.learning + 1

    def start_epoch(self, epoch: int) -> None:
        """Freeze what is finished."""
        self.learning, done = divmod(epoch - 1, self.settings.epochs)
        finished = self.learning - 1 - self.stage.first
        if done == 0 and self.averages and 0 <= finished < len(self.network.blocks):
            # What is kept of a block is its average, so the next one learns on that
            average = self.averages[finished].module
            self.network.blocks[finished].load_state_dict(average.state_dict())
        blocks = zip(self.network.blocks, self.optimizers, strict=True)
        for index, (block, optimizer) in enumerate(blocks, self.stage.first):
            block.train(index == self.learning)
            if index < self.learning:
                optimizer.state.clear()  # else the momentum of all finished blocks is carried on

    def step(self, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Update the block that learns from what the finished ones make of the batch."""
        place = self.learning - self.stage.first  # among the blocks here
        if place < 0:
            return {}
        (features,) = self.stage.receive(images)
        with torch.no_grad(), autocast(self.device, self.settings.amp):
            for block in self.network.blocks[:place]:
                features = block(features)
        if place >= len(self.network.blocks):
            self.stage.send(features)
            return {}
        rewind(self.stage.replica)
        loss = self.block_step(place, features, labels, images).loss
        self.schedules[place].step()
        return {self.learning: loss}

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Take two steps with each block."""
        for index in range(len(self.network.blocks)):
            self.start_epoch(index * self.settings.epochs + 1)
            for _ in range(2):
                self.step(images, labels)

    def numbers(self) -> dict[str, float]:
        """Return the rate of the block that learns, ``lr``, where it is here."""
        place = self.learning - self.stage.first
        if not 0 <= place < len(self.schedules):
            return {}
        return {"lr": float(self.schedules[place].get_last_lr()[0])}
