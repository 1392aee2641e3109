"""What a rank needs for a step of training: measured on its block alone, before it meets others."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.models import FeatureShape
from sedona_nni.models.placement import place
from sedona_nni.models.pretrained import copy_of
from sedona_nni.training.methods import TrainingMethod, build_method
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

__all__ = ["step_peak_mib"]


def step_peak_mib(
    network: DecoupledNetwork,
    shape: FeatureShape,
    rows: int,
    splits: Splits,
    settings: TrainSettings,
    stage: Stage,
    device: torch.device,
) -> float:
    """Return the most memory that training steps of a block allocate, MiB.

    With everything that it needs: weights, optimizer state, gradients, activations and what the
    step computes on the way, but not its input.

    Args:
        network: The block; it is left as it is.
        shape: Of one input.
        rows: How many of a batch the rank learns from.
        splits: Says how many classes there are.
        settings: Of the training.
        stage: Says which block it is.
        device: Where.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        inputs = shape.laid_out(torch.randn(shape.of_batch(rows), device=device))
        labels = torch.arange(rows, device=device) % splits.num_classes
        alone = _Alone(stage, inputs, labels)

        def some_steps() -> TrainingMethod:
            own = place(copy_of(network), device)
            method = build_method(own, settings, splits, 1000, alone)
            method.rehearse(inputs, labels)
            return method

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            return peak_memory_mib(some_steps, device)


class _Alone(Stage):
    """A block that hears nothing from others: made-up features come in, errors are zero."""

    def __init__(self, stage: Stage, inputs: Tensor, labels: Tensor) -> None:
        super().__init__(stage.num_blocks, stage.first)
        self.fed = (inputs, labels)
        self.sent = inputs
        self.looks = 0

    def send(self, *tensors: Tensor) -> None:
        """Keep the shape of what would be sent."""
        self.sent = tensors[0]

    def receive_error(self) -> Tensor:
        """Return no error, in the shape of what was sent last."""
        return torch.zeros_like(self.sent, dtype=torch.float32)

    def send_error(self, error: Tensor) -> None:
        """Send nothing."""

    def feed(self, steps: int, features: Tensor, labels: Tensor) -> None:
        """Feed nobody."""

    def arrivals(self, most: int, *, wait: bool) -> list[tuple[int, Tensor, Tensor]]:
        """Return made-up features, in the first block's next step at every other look."""
        self.looks += 1
        return [(self.looks // 2, *self.fed)]
