"""Probing as a search among others: all probes in turn, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from sedona_nni.data.batches import BatchStream
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.progress import tracked
from sedona_nni.searches.kind import Findings, SearchKind, SearchSetup
from sedona_nni.searches.probing.probing import (
    ProbeSettings,
    local_losses,
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
        """See `SearchKind.check`: blocks must be trainable with each auxiliary network, and the
        cost allow a few steps."""
        compute, train, steps = _trainings(setup)
        settings.short(train).check_aux(setup.aux)
        for name in setup.aux:
            compute.check_covers(compute.backbone, [name])
        probe_steps(compute, settings.cost, steps)

    def run(self, setup: SearchSetup, settings: ProbeSettings) -> Findings:
        """See `SearchKind.run`.

        Raises:
            DivergedError: if a loss is not finite.
        """
        task, aux = setup.task, setup.aux
        compute, train, total = _trainings(setup)
        short = settings.short(train)
        steps, trainings = probe_steps(compute, settings.cost, total)
        tried = [*probes(task.backbone, task_layers(task), aux)]
        found: list[float] = setup.progress.kept(
            lambda content: [float(loss) for loss in content["losses"]], []
        )
        generators = [setup.device] if setup.device.type == "cuda" else []
        for number, each in enumerate(tracked(tried, "probing", done=0)):
            if number >= len(found):
                with torch.random.fork_rng(devices=generators):
                    torch.manual_seed(short.seed)
                    backbone = task_backbone(task)
                    losses = local_losses(backbone, each, setup.splits, short, steps, setup.device)
                found.append(fmean(losses[steps // 2 :]))
                setup.progress.keep(losses=found)
            setup.report(
                {
                    "loss": found[number],
                    "least_loss": min(found[: number + 1]),
                    "probe": number + 1,
                    "probes": len(tried),
                    "tried": each.in_words() if each.cuts else "no cut",
                }
            )
        undivided, *local = found
        outcome = ProbeResult(
            backbone=task.backbone,
            dataset=task.dataset,
            aux_choices=list(aux),
            losses=[local[first : first + len(aux)] for first in range(0, len(local), len(aux))],
            undivided=undivided,
            provenance={"steps": steps, "seed": settings.seed},
        )
        return Findings(
            outcome,
            default=-min(found),
            images=len(tried) * steps * train.batch_size,
            numbers={"steps": steps, "trainings": trainings},
        )

    def in_words(self, results: Mapping[str, Any]) -> str:
        """See `SearchKind.in_words`."""
        return f"least loss {-results['default']:.3f}"


def _trainings(setup: SearchSetup) -> tuple[Compute, TrainSettings, int]:
    """Return what layers cost, and the trainings that the probes are for, with their steps."""
    assert setup.train is not None
    stream = BatchStream(
        setup.splits.train,
        setup.train.batch_size,
        setup.train.seed,
        "cpu",
        views=setup.train.views,
    )
    # A batch has at most the images that there are
    train = setup.train.model_copy(update={"batch_size": stream.batch_size})
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(setup.task), setup.aux)
    return compute, train, train.epochs * stream.batches_per_epoch
