"""Probing: which cuts teach the layers below them well, found out by trying each for a short time.

Notation (L layers; C auxiliary choices; M MACs of the whole backbone for one image):
    m_ic     MACs of the layers 0..i with auxiliary network c
    A_ic     validation accuracy of c after a short training of the layers 0..i with c alone
    A_bp     that of the undivided backbone's head after as short a training by back-propagation
    e_ic     evidence for a cut at boundary i with c

    1. Train the layers 0..i with c alone for n steps, for each i and c, from the same initial
       weights, with the same images: A_ic. What is above a cut does not matter to what is below.
       So, too, the undivided backbone: A_bp.
    2. e_ic = - (i+1)/L (max(A, A_bp) - A_ic), with A smoothed: `decoupling.ProbeResult`.
    3. Discretise, for any K: the K-1 cuts of the largest total evidence, with or without a bound on
       the blocks: `balance.discretise`.

All of it costs as much as a given number of full trainings, which n follows from: a training step
takes three passes over a batch (forward, and backward for features and weights), validation one
over its images. With B images per step, S steps and E validations with V images in a training,

    (M + sum over i, c of m_ic) (3 n B + V)  <=  cost M (3 S B + E V)

Source: this project. Why this evidence, and what it was judged by: docs/method.md, section 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field

from sedona_nni.backbones import Backbone
from sedona_nni.batches import BatchStream
from sedona_nni.compute import Compute
from sedona_nni.data import Splits
from sedona_nni.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.methods import build_method
from sedona_nni.methods.greedy import GreedySettings
from sedona_nni.training import TrainSettings, evaluate

__all__ = ["ProbeSettings", "local_accuracy", "probe_steps", "probes"]


class ProbeSettings(BaseModel):
    """How to probe; all else is as in the trainings that it is for.

    Attributes:
        cost: Of all probes together, in full trainings of the undivided backbone.
        seed: Decides initial weights, order of the images, augmentation and dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cost: float = Field(default=2.5, gt=0)
    seed: int = Field(default=2021, ge=0)


def probes(backbone: str, num_layers: int, aux_choices: Sequence[str]) -> Iterator[Decoupling]:
    """Yield what is probed: no cut, then each single one with every auxiliary network in turn."""
    yield Decoupling(backbone=backbone)
    for cut in range(num_layers - 1):
        for name in aux_choices:
            yield Decoupling(backbone=backbone, cuts=[cut], aux=[name])


def probe_steps(
    compute: Compute, settings: ProbeSettings, train: TrainSettings, splits: Splits
) -> tuple[int, float]:
    """Return how long each short training is, see the top of this file.

    Args:
        compute: MACs of the layers, and of the auxiliary networks to choose from.
        settings: Give the cost.
        train: Of a full training.
        splits: Say how many images there are.

    Returns:
        n, and what the short trainings cost together, in full ones.

    Raises:
        InputError: if not even one step is possible; it says which cost makes it so.
    """
    choices = list(compute.auxiliary[0])
    lower = sum(
        compute.blocks(each)[0] for each in probes(compute.backbone, len(compute.layers), choices)
    )
    learned = 3 * train.batch_size
    judged = len(splits.validation)
    stream = BatchStream(splits.train, train.batch_size, 0, "cpu")
    full = compute.total * train.epochs * (learned * stream.batches_per_epoch + judged)
    steps = int((settings.cost * full / lower - judged) / learned)
    if steps < 1:
        least = lower * (learned + judged) / full
        rule = f"must be at least {least:.2f} full trainings, or no probe has a step"
        raise InputError.rule("probe.cost", rule, settings.cost)
    return steps, lower * (learned * steps + judged) / full


def local_accuracy(
    backbone: Backbone,
    probe: Decoupling,
    splits: Splits,
    train: TrainSettings,
    steps: int,
    device: torch.device,
) -> float:
    """Return A_ic, or A_bp: train what is below a cut, with its auxiliary network alone, and
    validate it; or all, where there is no cut.

    The learning rate falls over these few steps as over those of a whole training, by a cosine.

    Args:
        backbone: Fresh; its lower layers are trained.
        probe: The cut and its auxiliary network, or no cut.
        splits: The images.
        train: How to train; its method, schedule and epochs do not matter.
        steps: n.
        device: Where.
    """
    short = train.model_copy(
        update={"method": GreedySettings(), "epochs": 1, "schedule": "cosine", "milestones": []}
    )
    block = DecoupledNetwork(build_decoupled(backbone, probe).blocks[:1])
    block.to(device).to(memory_format=torch.channels_last)  # as in `sedona_nni.training.train`
    method = build_method(block, short, splits, steps_per_epoch=steps)
    stream = BatchStream(
        splits.train,
        train.batch_size,
        train.seed,
        device,
        classes_per_batch=train.classes_per_batch,
        class_limited_passes=train.class_limited_epochs,
    )
    method.start_epoch(1)
    for _, (images, labels) in zip(range(steps), stream.iterate(), strict=False):
        method.step(images, labels)
    return evaluate(block, splits.validation, short, device).accuracies[0]
