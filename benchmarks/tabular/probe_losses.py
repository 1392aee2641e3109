"""Losses of single cuts, step by step, that a probing of another form could be made of.

A probing keeps no more than means. Here every cut with every auxiliary network is
probed for as many steps, at the rate that the table's trainings begin with or by a cosine to 0, and
every loss is kept. At a constant rate the first n steps are a probe of n steps.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from benchmarks.record import Header
from benchmarks.tabular.table import Table
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.files import Document
from sedona_nni.searches.probing.probing import ProbeSettings, local_losses, probes
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["NUM_REFERENCES", "ProbeLosses", "probe_losses"]

NUM_REFERENCES = 4
"""Probings of the undivided backbone, each with a seed of its own; the first with the probes'."""

_Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ProbeLosses(Document):
    """What the probes of one seed learned.

    Attributes:
        header: How they were made, where, and with which versions.
        task: Backbone and data.
        aux_choices: The C auxiliary networks.
        seed: Of the probes.
        batch_size: Images of a step.
        schedule: Of the rate: constant, or a cosine to 0 over the steps that there are.
        undivided: Losses of the undivided backbone, `NUM_REFERENCES` rows with one per step, nats.
        losses: Those of the cuts, (L-1) C rows; the auxiliary networks of a boundary in turn.
        processor_s: What each row took, first of `undivided` and then of `losses`, seconds.
        training_step_s: What a step of a training without cuts takes, likewise: the unit of costs.
    """

    format: Literal["sedona-nni/probe-losses/2"] = "sedona-nni/probe-losses/2"
    header: Header
    task: Task
    aux_choices: tuple[str, ...]
    seed: int
    batch_size: int
    schedule: Literal["constant", "cosine"]
    undivided: list[list[_Loss]] = Field(min_length=1)
    losses: list[list[_Loss]] = Field(min_length=1)
    processor_s: list[float]
    training_step_s: float = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({len(row) for row in (*self.undivided, *self.losses)}) > 1:
            raise ValueError("losses must have as many steps in each row")
        if len(self.losses) % len(self.aux_choices):
            raise ValueError("losses must have a row for each auxiliary network at each boundary")
        if len(self.processor_s) != len(self.undivided) + len(self.losses):
            raise ValueError("processor_s must have one entry per row")
        return self

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.undivided[0])

    @property
    def of_cuts(self) -> np.ndarray:
        """Losses of the cuts, shape (L-1, C, steps)."""
        return np.array(self.losses).reshape(-1, len(self.aux_choices), self.steps)

    def seconds_per_step(self) -> tuple[float, np.ndarray]:
        """Return what a step takes: mean of the references, and each cut's, shape (L-1, C)."""
        each = np.array(self.processor_s) / self.steps
        count = len(self.undivided)
        return float(each[:count].mean()), each[count:].reshape(-1, len(self.aux_choices))


def probe_losses(
    table: Table,
    header: Header,
    seed: int,
    *,
    steps: int,
    batch_size: int | None = None,
    schedule: Literal["constant", "cosine"] = "constant",
) -> ProbeLosses:
    """Probe every cut of the task of a table.

    Args:
        table: Gives task, training and auxiliary networks.
        header: Of the document.
        seed: Of the probes.
        steps: Of each.
        batch_size: Images of a step; by default as many as in the trainings.
        schedule: Of the rate.
    """
    task, splits = table.task, load_splits(table.task, table.train.validation_fraction)
    update = {} if schedule == "constant" else {"schedule": "cosine", "lr_min": 0.0}
    size = batch_size or table.train.batch_size

    def probe(each: Decoupling, seed: int, size: int = size) -> tuple[list[float], float]:
        train = ProbeSettings(seed=seed).short(table.train)
        train = train.model_copy(update={**update, "batch_size": size})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = task_backbone(task)
            started = time.process_time()
            found = local_losses(backbone, each, splits, train, steps, torch.device("cpu"))
        return [round(loss, 5) for loss in found], time.process_time() - started

    undivided, *cuts = probes(task.backbone, task_layers(task), table.aux_choices)
    rows = [probe(undivided, seed + 1000 * number) for number in range(NUM_REFERENCES)]
    rows += [probe(cut, seed) for cut in cuts]
    losses = [found for found, _ in rows]
    _, of_a_training = probe(undivided, seed, table.train.batch_size)
    return ProbeLosses(
        header=header,
        task=task,
        aux_choices=table.aux_choices,
        seed=seed,
        batch_size=size,
        schedule=schedule,
        undivided=losses[:NUM_REFERENCES],
        losses=losses[NUM_REFERENCES:],
        processor_s=[round(seconds, 4) for _, seconds in rows],
        training_step_s=round(of_a_training / steps, 6),
    )
