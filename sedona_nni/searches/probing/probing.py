"""Probing: which cuts teach the layers below them well, found out by trying each for a short time.

Notation (L layers; C auxiliary choices; M MACs of the whole backbone for one image):
    m_jc     MACs of the layers 0..j with auxiliary network c
    l_jct    loss of c on batch t, before learning from it, when the layers 0..j are trained with c
    l_jc     mean of l_jct over the second half of that training
    l_bp     that of the undivided backbone's head, by back-propagation
    e_ijc    evidence for the block of the layers i+1..j with c

    1. First rung: train the layers 0..j with c alone for n steps, for each j and c, and the
       undivided backbone; all from the same initial weights, with the same images. What is above a
       cut does not matter to what is below.
    2. Stop at each boundary the worse half of the auxiliary networks, and of the rest those that
       are clearly behind its best, c*: by a paired test, as batches are common, where the mean of
       d_t = l_jct - l_jc*t is more than `CLEARLY` of its standard errors above 0.
    3. Second rung: train the others for N steps, from the beginning again, so that nothing has to
       be kept meanwhile. l_jc of what was stopped: that of the boundary's best, and d as it was.
    4. e_ijc = - (j-i)/L (l_jc - min(l, l_bp)), with l smoothed: `result.ProbeResult`.
    5. Discretise, for any K: the K-1 cuts of the largest total evidence, with or without a bound on
       the blocks: `choice.discretise`.

Within the first pass over the images the losses are on unseen ones, so that nothing has to be held
out. A probe trains as the trainings do that a decoupling is wanted for, at the rate that they begin
with. All probes together have the compute of a given number of such trainings, of S steps, which n
and N follow from, half of it for either rung:

    n (M + sum over j, c of m_jc) <= cost M S / 2
    N (M + sum over those left of m_jc) <= cost M S - what the first rung took

Source: successive halving (Jamieson and Talwalkar, AISTATS 2016) and sums of training losses (Ru et
al., NeurIPS 2021); their use here is this project's. Why this evidence, and what it was judged by:
docs/method.md, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone
from sedona_nni.models.placement import place
from sedona_nni.seed import Seed
from sedona_nni.teachers.auxiliary import OnMaps
from sedona_nni.training.loop import DivergedError, training_stream
from sedona_nni.training.methods import build_method
from sedona_nni.training.methods.greedy import GreedySettings
from sedona_nni.training.settings import TrainSettings

__all__ = [
    "CLEARLY",
    "ProbeSettings",
    "affordable",
    "combined",
    "finalists",
    "first_rung",
    "local_losses",
    "probes",
    "second_rung",
]

CLEARLY = 2.0
"""Standard errors of a paired difference that a clear loser is behind."""

_LEAST_STEPS = 4  # of the first rung: its second half has a standard error
_COST = 0.25


class ProbeSettings(BaseModel):
    """How to probe; all else is as in the trainings that it is for.

    Attributes:
        cost: Of all probes together, in full trainings of the undivided backbone, by MACs; none: a
            quarter of one or, where a training is short, what the shortest probes take.
        seed: Decides initial weights, order of the images, augmentation and dropout.

    Examples:
        >>> from sedona_nni import ProbeSettings, TrainSettings
        >>> train = TrainSettings(epochs=5, lr=0.1, lr_min=0.0, warmup_epochs=1)
        >>> short = ProbeSettings(seed=3).short(train)
        >>> short.lr, short.schedule, short.warmup_epochs, short.seed
        (0.1, 'multistep', 0, 3)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: float | None = Field(default=None, gt=0)
    seed: Seed = 2021

    def short(self, train: TrainSettings) -> TrainSettings:
        """Return how a probe trains: at the same rate all the time.

        Args:
            train: How to train what is found; method, schedule, warm-up, averages, mixing,
                epochs and seed do not matter.
        """
        return train.model_copy(
            update={
                "seed": self.seed,
                "method": GreedySettings(),
                "epochs": 1,
                "schedule": "multistep",
                "milestones": [],
                "warmup_epochs": 0,
                "ema_decay": None,
                "mixup": 0.0,
                "cutmix": 0.0,
            }
        )


def probes(backbone: str, num_layers: int, aux_choices: Sequence[str]) -> Iterator[Decoupling]:
    """Yield what the first rung tries: no cut, then each with every auxiliary network in turn."""
    yield Decoupling(backbone=backbone)
    for cut in range(num_layers - 1):
        for name in aux_choices:
            yield Decoupling(backbone=backbone, cuts=[cut], aux=[name])


def _per_step(compute: Compute, tried: Sequence[Decoupling]) -> float:
    """Return the MACs of a step of each, as a share of one without cuts."""
    return math.fsum(compute.blocks(each)[0] for each in tried) / compute.total


def _everyone(compute: Compute) -> float:
    """Return the MACs of a step of all that the first rung tries, as `_per_step`."""
    aux = list(compute.auxiliary[0])
    return _per_step(compute, [*probes(compute.backbone, len(compute.layers), aux)])


def affordable(compute: Compute, cost: float | None, steps: int) -> float:
    """Return what all probes together may cost, in full trainings.

    Args:
        compute: MACs of the layers, and of the auxiliary networks to choose from.
        cost: As in `ProbeSettings.cost`.
        steps: S.

    Raises:
        InputError: if it is too little; it says which cost is enough.
    """
    least = 2 * _LEAST_STEPS * _everyone(compute) / steps
    if cost is None:
        return max(_COST, least)
    if cost < least:
        enough = math.ceil(100 * least) / 100
        rule = f"must be at least {enough} full trainings, or probes have too few steps"
        raise InputError.rule("probe.cost", rule, cost)
    return cost


def first_rung(compute: Compute, cost: float, steps: int) -> int:
    """Return n, see the top of this file.

    Args:
        compute: See `affordable`.
        cost: What all probes together may cost.
        steps: S.
    """
    return int(cost * steps / 2 / _everyone(compute) * (1 + 1e-9))


def second_rung(
    compute: Compute, cost: float, steps: int, first: int, left: Sequence[Decoupling]
) -> tuple[int, float]:
    """Return how long the second rung is, and what both cost.

    Args:
        compute: See `affordable`.
        cost: What all probes together may cost.
        steps: S.
        first: n.
        left: What is tried in it.

    Returns:
        N, at least n and at most S; full trainings, by MACs. N = n is nothing to be done again.
    """
    taken = first * _everyone(compute)
    per_step = _per_step(compute, left)
    second = min(int((cost * steps - taken) / per_step), steps)
    if second <= first:
        return first, taken / steps
    return second, (taken + second * per_step) / steps


def finalists(losses: np.ndarray) -> list[list[int]]:
    """Return who goes on at each boundary: those of the better half that are not clearly behind.

    Args:
        losses: Second halves of l_jct, shape (L-1, C, at least 2).

    Returns:
        For each boundary numbers of auxiliary networks, the best first.
    """
    found = []
    for at_boundary in losses:
        order = np.argsort(at_boundary.mean(axis=1), kind="stable")
        best, *others = order[: -(-len(order) // 2)].tolist()
        behind = at_boundary[others] - at_boundary[best]
        error = behind.std(axis=1, ddof=1) / math.sqrt(behind.shape[1])
        clearly = behind.mean(axis=1) > CLEARLY * error
        found.append([best, *(c for c, gone in zip(others, clearly, strict=True) if not gone)])
    return found


def combined(first: np.ndarray, second: Sequence[dict[int, float]]) -> np.ndarray:
    """Return l_jc of all, shape (L-1, C): of the second rung, or by how much it was behind before.

    Args:
        first: Means of the first rung, shape (L-1, C).
        second: At each boundary those of the second, by auxiliary network.
    """
    found = np.empty_like(first)
    for j, (row, kept) in enumerate(zip(first, second, strict=True)):
        # The best of before may be overtaken; what was stopped is compared with it all the same
        best = min(kept, key=lambda c: float(row[c]))
        for c in range(len(row)):
            found[j, c] = kept[c] if c in kept else kept[best] + (row[c] - row[best])
    return found


def local_losses(
    backbone: Backbone,
    decoupling: Decoupling,
    splits: Splits,
    train: TrainSettings,
    steps: int,
    device: torch.device,
) -> list[float]:
    """Return l_jct, or those of no cut: train what is below a cut, or all, for a few steps.

    They are what the criterion of the trainings makes of the classifier's logits, also where an
    auxiliary network learns from a loss of its own, so that different ones can be compared.

    Args:
        backbone: Fresh; its lower layers are trained.
        decoupling: The cut and its auxiliary network, or no cut.
        splits: The images; only those to train on are used.
        train: How to train, see `ProbeSettings.short`.
        steps: How many.
        device: Where.

    Raises:
        DivergedError: if the loss is not finite.
    """
    block = place(DecoupledNetwork(build_decoupled(backbone, decoupling).blocks[:1]), device)
    method = build_method(block, train, splits, steps_per_epoch=steps)
    stream = training_stream(splits, train, device)
    logits: list[Tensor] = []
    (lowest,) = block.blocks
    classifier = lowest.classifier
    assert classifier is not None
    if isinstance(classifier, OnMaps):
        classifier = classifier.network  # also where its own loss calls it
    classifier.register_forward_hook(
        lambda module, inputs, output: logits.append(output.detach().float())
    )
    losses = []
    method.start_epoch(1)
    for _, (images, labels) in zip(range(steps), stream.iterate(), strict=False):
        method.step(images, labels)
        losses.append(method.criterion(logits.pop(), labels))
    found = [float(loss) for loss in torch.stack(losses).tolist()]
    if not all(math.isfinite(loss) for loss in found):
        raise DivergedError(
            f"probing diverged: {decoupling.in_words()}, the loss is {found[-1]} "
            f"({train.optimizer}, lr {train.lr})"
        )
    return found
