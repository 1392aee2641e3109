"""Probing: which cuts teach the layers below them well, found out by trying each for a short time.

Notation (L layers; C auxiliary choices; M MACs of the whole backbone for one image):
    m_jc     MACs of the layers 0..j with auxiliary network c
    l_jc     mean loss of c in the second half of a short training of the layers 0..j with c alone
    l_bp     that of the undivided backbone's head, by back-propagation, mean over R seeds
    e_ijc    evidence for the block of the layers i+1..j with c

    1. Train the layers 0..j with c alone for n steps, for each j and c, from the same initial
       weights, with the same images: l_jc. What is above a cut does not matter to what is below.
       So, too, the undivided backbone, with R = 4 seeds, as all else is compared with it: l_bp.
    2. e_ijc = - (j-i)/L (l_jc - min(l, l_bp)), with l smoothed: `result.ProbeResult`.
    3. Discretise, for any K: the K-1 cuts of the largest total evidence, with or without a bound on
       the blocks: `choice.discretise`.

How good a signal is shows after some number of steps rather than of images, so the batches are
smaller than those of the trainings that a decoupling is wanted for: b instead of B images. A loss
is that on a batch before it has been learned from; within the first pass over the images they are
unseen ones, so that nothing has to be held out. All probes together have the compute of a given
number of full trainings of S steps, which n follows from:

    n b (R M + sum over j, c of m_jc) <= cost M S B

Source: this project. Why this evidence, and what it was judged by: docs/method.md, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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

__all__ = ["Probe", "ProbeSettings", "local_loss", "probe_steps", "probes"]

# R: the undivided backbone is compared with all else, so that an error of it is one of every cut.
# With one, a search of five on ResNet-18 had a correlation of 0.53; with four 0.83 (docs/method.md)
_REFERENCES = 4
_APART = 1000  # between their seeds: further than those of ten replicates of a study, 100 apart
_LEAST_BATCH = 2  # batch norm cannot learn from a single image


class ProbeSettings(BaseModel):
    """How to probe; all else is as in the trainings that it is for.

    Attributes:
        cost: Of all probes together, in full trainings of the undivided backbone.
        batch_split: Probes take batches of 1/batch_split of the images of those trainings, B / b;
            at least 2 images.
        seed: Decides initial weights, order of the images, augmentation and dropout.

    Examples:
        >>> from sedona_nni import ProbeSettings, TrainSettings
        >>> ProbeSettings(cost=0.5).batch_size(TrainSettings(batch_size=128))
        32
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: float = Field(default=1, gt=0)
    batch_split: int = Field(default=4, ge=1)
    seed: Seed = 2021

    def batch_size(self, train: TrainSettings) -> int:
        """Return b."""
        return max(_LEAST_BATCH, train.batch_size // self.batch_split)

    def short(self, train: TrainSettings, seed_offset: int) -> TrainSettings:
        """Return how a probe trains.

        SGD's learning rate shrinks with the batch, so that an image moves the weights as far as in
        those trainings (Goyal et al., 2017); Adam's steps do not depend on the gradient's scale.
        The rate falls over the few steps as over those of a whole training, by a cosine.

        Args:
            train: How to train what is found; method, schedule, warm-up, averages, mixing,
                epochs and seed do not matter.
            seed_offset: See `Probe`.
        """
        batch_size = self.batch_size(train)
        scale = batch_size / train.batch_size if train.optimizer == "sgd" else 1
        return train.model_copy(
            update={
                "batch_size": batch_size,
                "lr": train.lr * scale,
                "lr_min": train.lr_min * scale,
                "seed": self.seed + seed_offset,
                "method": GreedySettings(),
                "epochs": 1,
                "schedule": "cosine",
                "milestones": [],
                "warmup_epochs": 0,
                "ema_decay": None,
                "mixup": 0.0,
                "cutmix": 0.0,
            }
        )


class Probe(NamedTuple):
    """What is tried for a short time.

    Attributes:
        decoupling: A single cut, or none.
        seed_offset: By how much its seed is above that of the settings.
    """

    decoupling: Decoupling
    seed_offset: int


def probes(backbone: str, num_layers: int, aux_choices: Sequence[str]) -> Iterator[Probe]:
    """Yield what is probed: R times no cut, then each with every auxiliary network in turn."""
    for number in range(_REFERENCES):
        yield Probe(Decoupling(backbone=backbone), _APART * number)
    for cut in range(num_layers - 1):
        for name in aux_choices:
            yield Probe(Decoupling(backbone=backbone, cuts=[cut], aux=[name]), 0)


def probe_steps(compute: Compute, cost: float, batches: float) -> tuple[int, float]:
    """Return how long each probe is, see the top of this file.

    Args:
        compute: MACs of the layers, and of the auxiliary networks to choose from.
        cost: What all probes together may cost, in full trainings.
        batches: Of a probe's size that a full training has the images of, S B / b.

    Returns:
        n, and what the probes do cost.

    Raises:
        InputError: if not even one step is possible; it says which cost makes it so.
    """
    choices = list(compute.auxiliary[0])
    candidates = probes(compute.backbone, len(compute.layers), choices)
    per_step = sum(compute.blocks(each.decoupling)[0] for each in candidates) / compute.total
    steps = int(cost * batches / per_step)
    if steps < 1:
        least = math.ceil(100 * per_step / batches) / 100
        rule = f"must be at least {least} full trainings, or no probe has a step"
        raise InputError.rule("probe.cost", rule, cost)
    return steps, steps * per_step / batches


def local_loss(
    backbone: Backbone,
    decoupling: Decoupling,
    splits: Splits,
    train: TrainSettings,
    steps: int,
    device: torch.device,
) -> float:
    """Return l_jc, or l_bp: train what is below a cut, or all, for a few steps.

    It is what the criterion of the trainings makes of the classifier's logits, also where an
    auxiliary network learns from a loss of its own, so that different ones can be compared.

    Args:
        backbone: Fresh; its lower layers are trained.
        decoupling: The cut and its auxiliary network, or no cut.
        splits: The images; only those to train on are used.
        train: How to train, see `ProbeSettings.short`.
        steps: n.
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
    found = float(torch.stack(losses[steps // 2 :]).mean())
    if not math.isfinite(found):
        where = decoupling.in_words()
        raise DivergedError(
            f"probing diverged: {where}, the loss is {found} ({train.optimizer}, lr {train.lr})"
        )
    return found
