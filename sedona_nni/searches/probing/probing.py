"""Probing: which cuts teach the layers below them well, found out by trying each for a short time.

Notation (L layers; C auxiliary choices; M MACs of the whole backbone for one image):
    m_jc     MACs of the layers 0..j with auxiliary network c
    l_jc     mean loss of c over the second half of a training of the layers 0..j with c, each batch
             judged before it is learned from
    l_bp     that of the undivided backbone's head, by back-propagation
    e_ijc    evidence for the block of the layers i+1..j with c

    1. Train the layers 0..j with c alone for n steps, for each j and c, and the undivided backbone;
       all from the same initial weights, with the same images. What is above a cut does not matter
       to what is below.
    2. e_ijc = - (j-i)/L (l_jc - min(l, l_bp)), with l smoothed: `result.ProbeResult`.
    3. Discretise, for any K: the K-1 cuts of the largest total evidence, with or without a bound on
       the blocks: `choice.discretise`.

Within the first pass over the images the losses are on unseen ones, so that nothing has to be held
out. A probe trains as the trainings do that a decoupling is wanted for, at the rate that they begin
with. All probes together have the compute of a given number of such trainings, of S steps:

    n (M + sum over j, c of m_jc) <= cost M S

Source: sums of training losses (Ru et al., NeurIPS 2021); their use here is this project's. Why
this evidence, what it was judged by, and what did not pay: docs/method.md, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

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
from sedona_nni.training.loop import DivergedError, dropout_seed, training_stream
from sedona_nni.training.methods import build_method
from sedona_nni.training.methods.greedy import GreedySettings
from sedona_nni.training.settings import TrainSettings

__all__ = ["ProbeSettings", "local_losses", "probe_steps", "probes"]

_LEAST_STEPS = 8  # so that the second half says something
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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    """Yield what is tried: no cut, then each with every auxiliary network in turn."""
    yield Decoupling(backbone=backbone)
    for cut in range(num_layers - 1):
        for name in aux_choices:
            yield Decoupling(backbone=backbone, cuts=[cut], aux=[name])


def probe_steps(compute: Compute, cost: float | None, steps: int) -> tuple[int, float]:
    """Return how many steps each probe is trained, and what all of them cost.

    Args:
        compute: MACs of the layers, and of the auxiliary networks to choose from.
        cost: As in `ProbeSettings.cost`.
        steps: S.

    Returns:
        n, at most S; full trainings, by MACs.

    Raises:
        InputError: if the cost is too little; it says which is enough.
    """
    tried = probes(compute.backbone, len(compute.layers), list(compute.auxiliary[0]))
    per_step = math.fsum(compute.blocks(each)[0] for each in tried) / compute.total / steps
    least = min(_LEAST_STEPS, steps)
    if cost is None:
        found = max(int(_COST / per_step), least)
    elif (found := int(cost / per_step)) < least:
        enough = math.ceil(100 * least * per_step) / 100
        rule = f"must be at least {enough} full trainings, or probes have too few steps"
        raise InputError.rule("probe.cost", rule, cost)
    found = min(found, steps)
    return found, found * per_step


def local_losses(
    backbone: Backbone,
    decoupling: Decoupling,
    splits: Splits,
    train: TrainSettings,
    steps: int,
    device: torch.device,
) -> list[float]:
    """Train what is below a cut, or all, for a few steps; return the loss before each.

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
    own_loss = lowest.local_loss

    def recorded(*arguments: Any) -> tuple[Tensor, Tensor]:
        loss, found = own_loss(*arguments)
        logits.append(found.detach().float())
        return loss, found

    lowest.local_loss = recorded  # type: ignore[method-assign, assignment]
    losses = []
    method.start_epoch(1)
    for step, (images, labels) in zip(range(steps), stream.iterate(), strict=False):
        torch.manual_seed(dropout_seed(train.seed, step))
        method.step(images, labels)
        losses.append(method.criterion(torch.cat(logits), labels))
        logits.clear()
    found = [float(loss) for loss in torch.stack(losses).tolist()]
    if not all(math.isfinite(loss) for loss in found):
        raise DivergedError(
            f"probing diverged: {decoupling.in_words()}, the loss is {found[-1]} "
            f"({train.optimizer}, lr {train.lr})"
        )
    return found
