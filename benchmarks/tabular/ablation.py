"""What each part of probing is worth: the same losses, put together otherwise.

A *form* says how long the rungs are, who goes on to the second, how many references there are, what
is made of the losses of a probe, and whether they are smoothed. Each is applied to the losses of
every seed; what it would have cost is counted by the processor time of their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tabular.evidence import VARIANTS, Agreement, agreement
from benchmarks.tabular.probe_losses import ProbeLosses
from benchmarks.tabular.table import Table
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.result import ProbeResult

__all__ = ["FORMS", "Form", "ablate", "applied"]


def _second_half(losses: np.ndarray) -> np.ndarray:
    return np.asarray(losses[..., losses.shape[-1] // 2 :].mean(axis=-1))


def _all(losses: np.ndarray) -> np.ndarray:
    return np.asarray(losses.mean(axis=-1))


def _averaged(losses: np.ndarray) -> np.ndarray:
    """Return the exponential moving average, after TSE-EMA of Ru et al.; the decay is ours."""
    weights = 0.9 ** np.arange(losses.shape[-1])[::-1]
    return np.asarray(losses @ weights / weights.sum())


def _best(losses: np.ndarray) -> list[list[int]]:
    return [[int(np.argmin(row))] for row in losses.mean(axis=2)]


def _better_half(losses: np.ndarray) -> list[list[int]]:
    kept = -(-losses.shape[1] // 2)
    return [np.argsort(row, kind="stable")[:kept].tolist() for row in losses.mean(axis=2)]


def _not_clearly_behind(losses: np.ndarray) -> list[list[int]]:
    """Return those of the better half but for clear losers, by a paired test on common batches:

    the mean difference from the boundary's best is more than two of its standard errors.
    """
    found = []
    for at_boundary, (best, *others) in zip(losses, _better_half(losses), strict=True):
        behind = at_boundary[others] - at_boundary[best]
        error = behind.std(axis=1, ddof=1) / np.sqrt(behind.shape[1])
        clearly = behind.mean(axis=1) > 2 * error
        found.append([best, *(c for c, gone in zip(others, clearly, strict=True) if not gone)])
    return found


def _combined(first: np.ndarray, second: np.ndarray, going_on: list[list[int]]) -> np.ndarray:
    """Return the losses of the second rung, and where there is none how far a network was behind
    the best of those that went on, added to what that one came to."""
    found = second.copy()
    for j, kept in enumerate(going_on):
        best = min(kept, key=lambda c: float(first[j, c]))
        for c in set(range(first.shape[1])) - set(kept):
            found[j, c] = second[j, best] + first[j, c] - first[j, best]
    return found


@dataclass(frozen=True)
class Form:
    """How to put a probing together.

    Attributes:
        steps: n.
        longer: N, or None if there is no second rung.
        going_on: Who goes on: of the second halves of the losses, shape (L-1, C, n/2), the numbers
            at each boundary.
        references: Probes of the undivided backbone.
        statistic: Of the losses of a probe, along the last axis.
        smoothed: Whether the Gaussian process sees them.
    """

    steps: int
    longer: int | None = None
    going_on: Callable[[np.ndarray], list[list[int]]] = _not_clearly_behind
    references: int = 1
    statistic: Callable[[np.ndarray], np.ndarray] = _second_half
    smoothed: bool = True


FORMS: dict[str, Form] = {
    **{f"{n} steps": Form(n) for n in (10, 20, 40, 80, 280)},
    **{f"{n} steps, not smoothed": Form(n, smoothed=False) for n in (10, 20, 40, 80, 280)},
    "20 steps, four references": Form(20, references=4),
    "280 steps, four references": Form(280, references=4),
    "20 steps, all losses": Form(20, statistic=_all),
    "20 steps, moving average": Form(20, statistic=_averaged),
    "10 steps, 40 for the best": Form(10, 40, _best),
    "10 steps, 40 for the better half": Form(10, 40, _better_half),
    "10 steps, 40 for those of the better half not clearly behind": Form(10, 40),
    "20 steps, 80 for those of the better half not clearly behind": Form(20, 80),
}
"""The forms that are compared. Not all of them can be made of losses of few steps."""


def applied(form: Form, seen: ProbeLosses) -> tuple[ProbeResult, float]:
    """Return what a probing of this form would have ended with, and its cost, processor seconds."""
    losses, undivided = seen.of_cuts, np.array(seen.undivided[: form.references])
    of_reference, of_cuts = seen.seconds_per_step()
    first = losses[:, :, : form.steps]
    means, reached = form.statistic(first), form.steps
    seconds = form.steps * (form.references * of_reference + of_cuts.sum())
    if form.longer is not None:
        going_on, reached = form.going_on(first[:, :, form.steps // 2 :]), form.longer
        means = _combined(means, form.statistic(losses[:, :, :reached]), going_on)
        left = sum(of_cuts[j, row].sum() for j, row in enumerate(going_on))
        seconds += (reached - form.steps) * (form.references * of_reference + left)
    result = ProbeResult(
        backbone=seen.task.backbone,
        dataset=seen.task.dataset,
        aux_choices=list(seen.aux_choices),
        losses=means.tolist(),
        undivided=float(form.statistic(undivided[:, :reached]).mean()),
    )
    return result, float(seconds)


def ablate(
    table: Table, seen: Sequence[ProbeLosses], num_blocks: int = 2
) -> dict[str, tuple[list[Agreement], float]]:
    """Judge each form that the losses suffice for.

    Args:
        table: Of the same task.
        seen: Losses, one document per seed.
        num_blocks: K.

    Returns:
        For each form how its evidence agrees with the truth, by document, and its mean cost in
        trainings without cuts, by the processor time of their steps.

    Raises:
        InputError: if the losses are of another task, or not of one kind.
    """
    among = table.decouplings(num_blocks)
    truths = [table.truth(each) for each in among]
    for each in seen:
        if each.task != table.task or each.aux_choices != table.aux_choices:
            raise InputError.rule("task", "must be that of the table", each.task)
    kinds = {(each.batch_size, each.schedule, each.steps) for each in seen}
    if len(kinds) != 1:
        raise InputError(f"losses: must be of one batch size, schedule and length, got {kinds}")
    ((_, schedule, steps),) = kinds
    found = {}
    for name, form in FORMS.items():
        # The beginning of a probe is a shorter probe only at a constant rate
        if schedule == "cosine" and (form.steps != steps or form.longer):
            continue
        if max(form.steps, form.longer or 0) > steps:
            continue
        variant = VARIANTS[
            "and against the undivided" if form.smoothed else "the same, not smoothed"
        ]
        agreements, costs = [], []
        for each in seen:
            result, seconds = applied(form, each)
            evidence = variant(result)
            agreements.append(agreement(evidence, list(table.aux_choices), among, truths))
            costs.append(seconds / (table.steps * each.training_step_s))
        found[name] = agreements, float(np.mean(costs))
    return found
