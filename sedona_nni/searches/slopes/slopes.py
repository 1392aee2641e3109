"""Slopes: how the result of a whole training depends on a little of each cut, all at once.

Notation (L layers, C auxiliary choices; relaxation as in `sedona_nni.searches.sedona.relaxation`):
    z_jc    a_j^loc b_jc, what share of layer j's signal comes from auxiliary network c
    L(z)    validation loss of backbone and final head after a training of T steps with z
    s_jc    - dL/dz_jc at z_jc = a/C everywhere: the *slope* of the cut at j with c

SEDONA moves z by such derivatives of a few steps each, from moments of a training, and reads its
choice off where z has gone. Here there is one derivative, of the training that a decoupling is
wanted for, from its first step to its last, and the choice is read off that: no step size, no short
horizon. With a near 0 it is taken beside the undivided network, with a = 0.5 where SEDONA begins.

How slopes follow from the hypergradient of alpha and beta: `relaxation.slopes`. It took the time of
some 25 trainings without cuts in a narrow VGG-11. What is kept meanwhile is the moment before each
leg of max(32, sqrt(T)) steps, see `sedona_nni.searches.sedona.hypergradient`.
Source: this project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sedona_nni.data.batches import Batch
from sedona_nni.searches.sedona.hypergradient import legs, look_ahead, pull_back
from sedona_nni.searches.sedona.inner_step import InnerProblem, PulledBack, TrainingState

__all__ = ["Keep", "end_of_training", "way_back"]

Report = Callable[[dict[str, float]], None]


class Keep(Protocol):
    """What outlives an interruption: tensors by name."""

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return what was saved under a name, None if nothing was."""

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Save tensors under a name."""


def end_of_training(
    problem: InnerProblem,
    batches: Callable[[range], Sequence[Batch]],
    lrs: Sequence[float],
    seed: int,
    *,
    keep: Keep,
    report: Report,
) -> list[TrainingState]:
    """Train for T = len(lrs) steps; return the moment before each leg and, last, the end.

    Args:
        problem: The relaxed network with its optimizer and loss, as it is at the start.
        batches: Returns the training batches of some steps.
        lrs: Learning rate of each step.
        seed: Of the dropout masks; step t uses ``seed + t``.
        keep: Where the moments are kept, and taken from if they are there.
        report: Called after each leg with ``step``, of ``steps``, and ``loss``, the final head's
            mean over the leg, nats.
    """
    moments = [problem.state()]
    for number, leg in enumerate(legs(len(lrs)), start=1):
        name = f"moment-{number}"
        kept = keep.load(name)
        if kept is not None:
            state = TrainingState(**kept, step=leg.stop)
            moments.append(problem.unpacked(state))
            continue
        rates = [lrs[t] for t in leg]
        ahead = look_ahead(problem, moments[-1], batches(leg), lrs=rates, seed=seed + leg.start)
        moments.append(ahead.state)
        state = problem.packed(ahead.state)
        keep.save(name, {k: getattr(state, k) for k in ("weights", "slots", "statistics")})
        report({"step": leg.stop, "steps": 2 * len(lrs), "loss": float(ahead.losses[:, -1].mean())})
    return moments


def way_back(
    problem: InnerProblem,
    moments: Sequence[TrainingState],
    at_end: PulledBack,
    batches: Callable[[range], Sequence[Batch]],
    lrs: Sequence[float],
    seed: int,
    *,
    keep: Keep,
    report: Report,
) -> PulledBack:
    """Pull cotangents of the end of a training back to its start, to alpha and beta.

    Takes what `end_of_training` does and returned, and the cotangents of its end. It reports
    ``step``, of ``steps``, counted on, and ``hypergradient``, the norm so far.
    """
    after, steps = at_end, len(lrs)
    for start, leg in reversed([*zip(moments, legs(steps), strict=False)]):
        name = f"back-{leg.start}"
        kept = keep.load(name)
        if kept is not None:
            after = PulledBack(**{k: v.to(at_end.alpha.device) for k, v in kept.items()})
            continue
        of_leg, rates = batches(leg), [lrs[t] for t in leg]
        ahead = look_ahead(problem, start, of_leg, lrs=rates, seed=seed + leg.start)
        after = pull_back(
            problem,
            ahead,
            of_leg,
            after,
            lrs=rates,
            seed=seed + leg.start,
            to_start=leg.start > 0,
        )
        keep.save(name, {k: v.clone() for k, v in vars(after).items()})
        norm = float(torch.cat([after.alpha, after.beta], dim=1).norm())
        report({"step": 2 * steps - leg.start, "steps": 2 * steps, "hypergradient": norm})
    return after
