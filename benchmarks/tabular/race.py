"""Strategies against the clock: what they pick after so much computing, judged by a table.

The clock is simulated: a training takes the processor time that the table's clock says, and each
epoch the same share of that. A strategy trains one decoupling after the other; at any moment its
*pick* is the decoupling that validated best among those trained furthest, and before the first
epoch ends one at random. So strategies that stop trainings early can be compared with those that do
not, and with searches, at equal cost.

*Successive halving* draws decouplings at random, as random search does, and stops those that after
1, 2, 4 ... epochs are not among the better half of what was seen there: Optuna's pruner, the
asynchronous form.
Sources: Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020 (the
asynchronous form); Salinas et al., "Syne Tune", AutoML 2022 (the clock).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.tabular.queries import STRATEGIES, queries
from benchmarks.tabular.table import Table, Training
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError

__all__ = ["RACERS", "affordable", "race"]

_HALVING = "successive_halving"
RACERS = (*STRATEGIES, _HALVING)


class _Seen(NamedTuple):
    """An end of an epoch: what validated how, and the clock then, in trainings without cuts."""

    decoupling: Decoupling
    epoch: int
    accuracy: float
    clock: float


def race(
    table: Table,
    strategy: str,
    budgets: Sequence[float],
    *,
    num_blocks: int = 2,
    repeats: int = 100,
    max_block_share: str | None = None,
    seed: int = 0,
    truths: Table | None = None,
) -> np.ndarray:
    """Return the true regret of a strategy's pick after each budget.

    Args:
        table: It must hold all decouplings into K blocks, and their clock.
        strategy: One of `RACERS`.
        budgets: Rising, in trainings without cuts.
        num_blocks: K.
        repeats: How often, each time with other seeds.
        max_block_share: Only decouplings within this bound.
        seed: Of everything that is drawn.
        truths: What says how good a pick is; by default the table.

    Returns:
        Shape (repeats, len(budgets)).

    Raises:
        InputError: if there is no such strategy, the table is not complete, or has no clock.
    """
    if strategy not in RACERS:
        raise InputError.rule("--strategy", f"must be one of {', '.join(RACERS)}", strategy)
    table.check_complete(num_blocks)
    among = table.decouplings(num_blocks, max_block_share)
    regrets = {each: (truths or table).regret(each, among) for each in among}
    rows, paid = [], max(1, affordable(table, among, budgets[-1]))
    for child in np.random.SeedSequence(seed).spawn(repeats):
        rng = np.random.default_rng(child)
        if strategy == _HALVING:
            seen = _halving(table, among, rng)
        else:
            asked = queries(table, strategy, num_blocks, paid, max_block_share, rng)
            seen = _in_full(table, asked)
        picks = _picks([*seen], budgets)
        anyhow = float(np.mean([*regrets.values()]))  # of a pick at random
        rows.append([anyhow if pick is None else regrets[pick] for pick in picks])
    return np.array(rows)


def affordable(table: Table, among: Sequence[Decoupling], budget: float) -> int:
    """Return how many trainings of some decouplings a budget pays for at most: the cheapest."""
    clock = np.cumsum(sorted(table.cost(each) for each in among))
    return int((clock <= budget).sum())


def _in_full(table: Table, asked: Sequence[tuple[Decoupling, Training]]) -> Iterator[_Seen]:
    clock = 0.0
    for decoupling, training in asked:
        clock += table.cost(decoupling)
        yield _Seen(decoupling, len(training.train_losses), training.validation_accuracy, clock)


def _halving(
    table: Table, among: Sequence[Decoupling], rng: np.random.Generator
) -> Iterator[_Seen]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(pruner=pruner, direction="maximize")
    clock = 0.0
    for number in rng.permutation(len(among)):
        decoupling = among[number]
        training, trial = table.draw(decoupling, rng), study.ask()
        accuracies = training.block_curves[-1]
        for epoch, accuracy in enumerate(accuracies, start=1):
            clock += table.cost(decoupling) / len(accuracies)
            last = epoch == len(accuracies)
            yield _Seen(
                decoupling, epoch, training.validation_accuracy if last else accuracy, clock
            )
            trial.report(accuracy, epoch)
            if last:
                study.tell(trial, accuracy)
            elif trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break


def _picks(seen: Sequence[_Seen], clocks: Sequence[float]) -> list[Decoupling | None]:
    """Return the pick at each moment: the best of those trained furthest, of equals the first."""
    picks: list[Decoupling | None] = []
    for clock in clocks:
        until = [each for each in seen if each.clock <= clock]
        best = max(until, key=lambda each: (each.epoch, each.accuracy), default=None)
        picks.append(None if best is None else best.decoupling)
    return picks
