"""Probing as a search among others: two rungs of probes, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sedona_nni.data.batches import BatchStream
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.progress import tracked
from sedona_nni.searches.kind import Findings, SearchKind, SearchSetup
from sedona_nni.searches.probing.probing import (
    ProbeSettings,
    affordable,
    combined,
    finalists,
    first_rung,
    local_losses,
    probes,
    second_rung,
)
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["Probing"]


class Probing(SearchKind[ProbeSettings]):
    """Tries every single cut with every auxiliary network for a short time, and no cut.

    It reports after every probe: its ``loss``, what was ``tried`` (a text), its number as
    ``probe``, from 1, of ``probes``, as many as are known so far, and the ``least_loss`` of its
    rung; of an interrupted probing that goes on, also those that are done.

    Its ``default`` is minus the least loss, and its results also have ``steps`` of the longest
    probes, and ``trainings``, what all cost in full trainings, by MACs.
    """

    name = "probe"
    field = "probe"
    settings = ProbeSettings
    outcome = ProbeResult
    noun = "probing"
    uses_training = True
    cost = "cost"

    def check(self, setup: SearchSetup, settings: ProbeSettings) -> None:
        """See `SearchKind.check`: the cost must allow a few steps."""
        compute, _, steps = _trainings(setup)
        affordable(compute, settings.cost, steps)

    def run(self, setup: SearchSetup, settings: ProbeSettings) -> Findings:
        """See `SearchKind.run`.

        Raises:
            DivergedError: if a loss is not finite.
        """
        task, aux = setup.task, setup.aux
        compute, train, total = _trainings(setup)
        short = settings.short(train)
        kept: list[list[float]] = setup.progress.kept(
            lambda content: [[float(loss) for loss in each] for each in content["losses"]], []
        )

        def rung(tried: Sequence[Decoupling], steps: int, before: int) -> list[np.ndarray]:
            """Probe; return the second half of each one's losses."""
            found = kept[before : before + len(tried)]
            generators = [setup.device] if setup.device.type == "cuda" else []
            for number, each in enumerate(tracked(tried, "probing", done=0)):
                if number >= len(found):
                    with torch.random.fork_rng(devices=generators):
                        torch.manual_seed(short.seed)
                        backbone = task_backbone(task)
                        losses = local_losses(
                            backbone, each, setup.splits, short, steps, setup.device
                        )
                    found.append(losses[steps // 2 :])
                    kept.append(found[-1])
                    setup.progress.keep(losses=kept)
                means = [float(np.mean(losses)) for losses in found[: number + 1]]
                setup.report(
                    {
                        "loss": means[-1],
                        "least_loss": min(means),
                        "probe": before + number + 1,
                        "probes": before + len(tried),
                        "tried": each.in_words() if each.cuts else "no cut",
                    }
                )
            return [np.array(losses) for losses in found]

        tried = [*probes(task.backbone, task_layers(task), aux)]
        cost = affordable(compute, settings.cost, total)
        steps = first_rung(compute, cost, total)
        undivided, *local = rung(tried, steps, before=0)
        losses = np.stack(local).reshape(-1, len(aux), len(undivided))
        going_on = finalists(losses)
        left = [
            tried[0],
            *(tried[1 + j * len(aux) + c] for j, row in enumerate(going_on) for c in row),
        ]
        longer, trainings = second_rung(compute, cost, total, steps, left)
        means = losses.mean(axis=2)
        if longer > steps:
            undivided, *finals = rung(left, longer, before=len(tried))
            values = iter(float(each.mean()) for each in finals)
            means = combined(means, [{c: next(values) for c in row} for row in going_on])
        outcome = ProbeResult(
            backbone=task.backbone,
            dataset=task.dataset,
            aux_choices=list(aux),
            losses=means.tolist(),
            undivided=float(undivided.mean()),
            provenance={
                "steps": longer,
                "first_steps": steps,
                "finalists": [[aux[c] for c in row] for row in going_on],
                "seed": settings.seed,
            },
        )
        taken = len(tried) * steps + (len(left) * longer if longer > steps else 0)
        return Findings(
            outcome,
            default=-min(outcome.undivided, float(means.min())),
            images=taken * train.batch_size,
            numbers={"steps": longer, "trainings": trainings},
        )

    def in_words(self, results: Mapping[str, Any]) -> str:
        """See `SearchKind.in_words`."""
        return f"least loss {-results['default']:.3f}"


def _trainings(setup: SearchSetup) -> tuple[Compute, TrainSettings, int]:
    """Return what layers cost, and the trainings that the probes are for, with their steps."""
    assert setup.train is not None
    stream = BatchStream(setup.splits.train, setup.train.batch_size, setup.train.seed, "cpu")
    # A batch has at most the images that there are
    train = setup.train.model_copy(update={"batch_size": stream.batch_size})
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(setup.task), setup.aux)
    return compute, train, train.epochs * stream.batches_per_epoch
