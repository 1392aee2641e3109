"""Zero-cost scores: what the lowest block is worth before it has learned anything.

Notation (a block f with its auxiliary network, B images x_n with labels y_n, weights w):
    grad_norm     |dl/dw|, l the block's local loss in training mode, w the weights of its layers
    synflow       sum over the weights of w dR/dw, with |w| for w and R the sum of the logits of an
                  image of ones; norms, as they are before training, change nothing
    jacob_cov     - sum_i (log(v_i + k) + 1 / (v_i + k)), k = 1e-5, v the eigenvalues of the matrix
                  of correlations of the B rows d(sum of the logits of x_n) / d x_n

The larger, the better, so it is claimed. What is above the lowest cut is in none of them.
Sources: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021; Tanaka et al.,
NeurIPS 2020 (synflow); Mellor et al., ICML 2021, first version (jacob_cov).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import Block
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import training_stream
from sedona_nni.training.settings import TrainSettings

__all__ = ["ZERO_COST", "zero_cost"]

_SMALL = 1e-5


def _logits(block: Block, images: Tensor) -> Tensor:
    assert block.classifier is not None
    logits: Tensor = block.classifier(block(images))
    return logits


def grad_norm(block: Block, images: Tensor, labels: Tensor, criterion: nn.Module) -> float:
    """Return how long the first gradient of a block's layers is."""
    loss, _ = block.train().local_loss(block(images), labels, criterion)
    gradients = torch.autograd.grad(loss, [*block.layers.parameters()])
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def synflow(block: Block, images: Tensor, labels: Tensor, criterion: nn.Module) -> float:
    """Return the logarithm of the flow of ones through a block and its auxiliary network.

    In float64, as it grows with every layer. In evaluation mode a batch norm divides by 1.
    """
    block = block.double().eval()
    weights = [*block.parameters()]
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
    flow = _logits(block, torch.ones_like(images[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, weights, allow_unused=True, materialize_grads=True)
    total = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))
    return float(np.log(total))


def jacob_cov(block: Block, images: Tensor, labels: Tensor, criterion: nn.Module) -> float:
    """Return how differently the logits of different images depend on these."""
    images = images.clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(_logits(block.train(), images).sum(), images)
    values = np.linalg.eigvalsh(np.corrcoef(jacobian.flatten(1).double().numpy())) + _SMALL
    return float(-(np.log(values) + 1 / values).sum())


ZERO_COST: dict[str, Callable[[Block, Tensor, Tensor, nn.Module], float]] = {
    "grad_norm": grad_norm,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
}
"""The scores by name; each may change the block that it is given."""


def zero_cost(
    name: str, task: Task, decoupling: Decoupling, train: TrainSettings, splits: Splits
) -> float:
    """Return a score of a decoupling's lowest block, on the first batch of a training.

    Args:
        name: One of `ZERO_COST`.
        task: Backbone and data.
        decoupling: With at least one cut.
        train: Whose seed, batch and loss are used.
        splits: The task's images.
    """
    block = initial_network(task, decoupling, train.seed).blocks[0]
    images, labels = next(training_stream(splits, train, "cpu").iterate())
    criterion = LabelSmoothing(train.label_smoothing)
    return ZERO_COST[name](block, images, labels, criterion)
