"""Probing as a search among others: every probe in turn, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sedona_nni.data.batches import BatchStream
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.progress import tracked
from sedona_nni.searches.kind import Findings, SearchKind, SearchSetup
from sedona_nni.searches.probing.probing import (
    Probe,
    ProbeSettings,
    local_loss,
    probe_steps,
    probes,
)
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["Probing"]


class Probing(SearchKind[ProbeSettings]):
    """Tries every single cut with every auxiliary network for a short time, and no cut.

    It reports after every probe: its ``loss``, what was ``tried`` (a text), its number as
    ``probe``, from 1, of ``probes``, and the ``least_loss`` so far; of an interrupted probing that
    goes on, also those that are done.

    Its ``default`` is minus the least loss, and its results also have ``steps`` of each probe, and
    ``trainings``, what all cost in full trainings, by MACs.
    """

    name = "probe"
    field = "probe"
    settings = ProbeSettings
    outcome = ProbeResult
    noun = "probing"
    uses_training = True
    cost = "cost"

    def check(self, setup: SearchSetup, settings: ProbeSettings) -> None:
        """See `SearchKind.check`: the cost must allow a step."""
        _plan(setup, settings)

    def run(self, setup: SearchSetup, settings: ProbeSettings) -> Findings:
        """See `SearchKind.run`.

        Raises:
            DivergedError: if a loss is not finite.
        """
        task, splits, aux = setup.task, setup.splits, setup.aux
        train, steps, trainings = _plan(setup, settings)
        found: list[float] = setup.progress.kept(
            lambda content: [float(loss) for loss in content["losses"]], []
        )
        candidates = list(probes(task.backbone, task_layers(task), aux))
        for number in range(1, len(found) + 1):
            setup.report(_numbers(found[:number], candidates))
        generators = [setup.device] if setup.device.type == "cuda" else []
        for probe in tracked(candidates[len(found) :], "probing", done=len(found)):
            with torch.random.fork_rng(devices=generators):
                short = settings.short(train, probe.seed_offset)
                torch.manual_seed(short.seed)
                backbone = task_backbone(task)
                loss = local_loss(backbone, probe.decoupling, splits, short, steps, setup.device)
            found.append(loss)
            setup.progress.keep(losses=found)
            setup.report(_numbers(found, candidates))

        undivided = [
            loss for loss, probe in zip(found, candidates, strict=True) if not probe.decoupling.cuts
        ]
        local = found[len(undivided) :]
        batch_size = settings.batch_size(train)
        outcome = ProbeResult(
            backbone=task.backbone,
            dataset=task.dataset,
            aux_choices=list(aux),
            losses=[local[i : i + len(aux)] for i in range(0, len(local), len(aux))],
            undivided=float(np.mean(undivided)),
            provenance={"steps": steps, "batch_size": batch_size, "seed": settings.seed},
        )
        return Findings(
            outcome,
            default=-min(found),
            images=len(found) * steps * batch_size,
            numbers={"steps": steps, "trainings": trainings},
        )

    def in_words(self, results: Mapping[str, Any]) -> str:
        """See `SearchKind.in_words`."""
        return f"least loss {-results['default']:.3f}"


def _plan(setup: SearchSetup, settings: ProbeSettings) -> tuple[TrainSettings, int, float]:
    """Return the trainings that the probes are a part of, the steps of each probe, and what all
    cost in such trainings."""
    assert setup.train is not None
    stream = BatchStream(setup.splits.train, setup.train.batch_size, setup.train.seed, "cpu")
    # A batch has at most the images that there are; a probe's is a part of what it does have
    train = setup.train.model_copy(update={"batch_size": stream.batch_size})
    images = train.epochs * stream.batches_per_epoch * train.batch_size
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(setup.task), setup.aux)
    steps, trainings = probe_steps(compute, settings.cost, images / settings.batch_size(train))
    return train, steps, trainings


def _numbers(found: Sequence[float], candidates: Sequence[Probe]) -> dict[str, Any]:
    tried = candidates[len(found) - 1].decoupling
    return {
        "loss": found[-1],
        "least_loss": min(found),
        "probe": len(found),
        "probes": len(candidates),
        "tried": tried.in_words() if tried.cuts else "no cut",
    }
