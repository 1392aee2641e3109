"""Very short trainings of every decoupling: what they tell of the truth.

A probe is a training of a few steps with a schedule of its own. It leaves the accuracies of all
classifiers, the auxiliary networks' too, and the training loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.record import Header
from benchmarks.tabular.table import Table, rank_correlation
from sedona_nni.backbones import ACTIVATIONS, build_backbone
from sedona_nni.data import load_splits
from sedona_nni.decoupled import build_decoupled
from sedona_nni.decoupling import Decoupling
from sedona_nni.files import Document
from sedona_nni.training import train

__all__ = ["EVIDENCE", "Probe", "Probes", "Signs", "early_signs", "follow", "probe", "smoothed"]


class Signs(BaseModel):
    """What is known of a decoupling before its training is over.

    Attributes:
        block_accuracies: Validation accuracy of each block's classifier; the last is the network's.
        train_loss: Mean loss of the final head while learning, nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_accuracies: tuple[float, ...]
    train_loss: float


class Probe(Signs):
    """Signs from a short training.

    Attributes:
        seed: Of the training.
        cuts: The decoupling's.
        aux: The decoupling's.
    """

    seed: int
    cuts: tuple[int, ...]
    aux: tuple[str, ...]


class Probes(Document):
    """Short trainings of all decouplings of a table into K blocks, with several seeds.

    Attributes:
        header: How they were made.
        steps: Training steps of each.
        probes: All of them.
    """

    format: Literal["sedona-nni/probes/1"] = "sedona-nni/probes/1"
    header: Header
    steps: int
    probes: tuple[Probe, ...]


def probe(table: Table, decoupling: Decoupling, steps: int, seed: int) -> Probe:
    """Train a decoupling of a table for a few steps, else with the table's settings.

    Args:
        table: Gives task and settings.
        decoupling: What to train.
        steps: How long; the images of so many batches are drawn from the training part and each
            is used once.
        seed: Of weights, images and their order.
    """
    settings = table.train.model_copy(update={"epochs": 1, "seed": seed})
    splits = load_splits(table.task, settings.validation_fraction)
    drawn = np.random.default_rng(seed).permutation(len(splits.train))
    few = np.sort(drawn[: steps * settings.batch_size])
    # No test is wanted, and an empty one is not possible
    splits = replace(splits, train=splits.train.subset(few), test=splits.test.subset(few[:1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(
            table.task.backbone,
            num_classes=splits.num_classes,
            image_size=splits.image_size,
            width_multiplier=table.task.width_multiplier,
            activation=ACTIVATIONS[table.task.activation],
        )
        network = build_decoupled(backbone, decoupling)
    reported: list[dict[str, float]] = []
    train(network, splits, settings, report=reported.append)
    numbers = reported[-1]
    return Probe(
        seed=seed,
        cuts=tuple(decoupling.cuts),
        aux=tuple(decoupling.aux),
        block_accuracies=tuple(
            round(numbers[f"block_{k}_accuracy"], 5) for k in range(1, decoupling.num_blocks + 1)
        ),
        train_loss=round(numbers["train_loss"], 5),
    )


def early_signs(table: Table, among: Sequence[Decoupling], seed: int, epoch: int) -> list[Signs]:
    """Return what was known of some decouplings of a table after an epoch, from 1, with a seed."""
    found = []
    for decoupling in among:
        training = next(each for each in table[decoupling].trainings if each.seed == seed)
        accuracies = tuple(curve[epoch - 1] for curve in training.block_curves)
        loss = training.train_losses[epoch - 1]
        found.append(Signs(block_accuracies=accuracies, train_loss=loss))
    return found


def _standard(values: Sequence[float] | np.ndarray) -> np.ndarray:
    centred = np.asarray(values) - np.mean(values)
    return np.asarray(centred / (centred.std() or 1))


def _best(signs: Sequence[Signs]) -> np.ndarray:
    return _standard([max(each.block_accuracies) for each in signs])


def _loss(signs: Sequence[Signs]) -> np.ndarray:
    return _standard([each.train_loss for each in signs])


EVIDENCE: dict[str, Callable[[Sequence[Signs]], np.ndarray]] = {
    "final accuracy": lambda signs: _standard([each.block_accuracies[-1] for each in signs]),
    "local accuracy": lambda signs: _standard(
        [float(np.mean(each.block_accuracies[:-1])) for each in signs]
    ),
    "best accuracy": _best,
    "training loss": lambda signs: -_loss(signs),
    "best accuracy and training loss": lambda signs: _best(signs) - _loss(signs),
}


def smoothed(
    evidence: np.ndarray, among: Sequence[Decoupling], aux_choices: Sequence[str]
) -> np.ndarray:
    """Return what a Gaussian process makes of evidence about decouplings into two blocks.

    With b the cut and c the place of its auxiliary network among the choices, the kernel is
    0.3 k_b + 0.3 k_c + k_b k_c, where k_b = exp(-(b - b')^2 / 8) and k_c = exp(-(c - c')^2 / 4.5),
    and the noise has variance 0.3: neighbours are alike, and little is known from one of them.
    """
    b = np.array([each.cuts[0] for each in among])
    c = np.array([aux_choices.index(each.aux[0]) for each in among])
    k_b = np.exp(-((b[:, None] - b) ** 2) / 8)
    k_c = np.exp(-((c[:, None] - c) ** 2) / 4.5)
    kernel = 0.3 * k_b + 0.3 * k_c + k_b * k_c
    return np.asarray(kernel @ np.linalg.solve(kernel + 0.3 * np.eye(len(b)), evidence))


def follow(evidence: np.ndarray, truths: Sequence[float]) -> tuple[float, int]:
    """Return the rank correlation of evidence with the truth, and the true rank of its pick."""
    pick = truths[int(np.argmax(evidence))]
    return rank_correlation(evidence.tolist(), truths), 1 + sum(each > pick for each in truths)
