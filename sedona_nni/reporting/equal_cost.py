"""What strategies reach at what cost.

A strategy is followed along its cost: its search first, then its trainings in the order in which
they were handed out. Its best training so far is the one that validates best; test accuracy is that
of the same training.

Cost is counted twice. ``images``: those that the steps of trainings and searches took, which is
steps times batch size; one of SEDONA's search takes more computing than one of a training, one of a
probing less. ``time_s``: seconds of the trials, as if they had run one after another. A search that
serves several numbers of blocks is charged to each of them. A failed training is charged what the
strategy's others cost on average, one that was stopped early as much of it as was done.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sedona_nni.reporting.data import COSTS, Cost, Curve, SearchView, Spread, TrialView, Within

__all__ = ["CostPath", "best_of", "curve_of", "paths_of", "within_of"]


@dataclass(frozen=True)
class CostPath:
    """A strategy in an experiment.

    Attributes:
        strategy: Its name.
        trials: Trainings that succeeded, in the order in which they were handed out.
        costs: What had been spent when each of them was done, by kind; only kinds that are known.
    """

    strategy: str
    trials: list[TrialView]
    costs: dict[Cost, list[float]]

    def best_within(self, cost: Cost, budget: float) -> TrialView | None:
        """Return the best training that is done at that cost."""
        done = [t for t, c in zip(self.trials, self.costs[cost], strict=True) if c <= budget]
        return best_of(done)


def best_of(trials: Iterable[TrialView]) -> TrialView | None:
    """Return the training that validates best, of equals the first; None of none."""
    return max(trials, key=lambda trial: trial.validation_accuracy or 0.0, default=None)


def paths_of(trials: Sequence[TrialView], searches: Sequence[SearchView]) -> list[CostPath]:
    """Return the path of each strategy that has a training that succeeded, by experiment."""
    pairs = dict.fromkeys((trial.strategy, trial.experiment) for trial in trials)
    found = []
    for strategy, experiment in pairs:
        own = [t for t in trials if (t.strategy, t.experiment) == (strategy, experiment)]
        done = [trial for trial in own if trial.status == "succeeded"]
        search = [s for s in searches if s.experiment == experiment and s.serves(strategy)]
        costs: dict[Cost, list[float]] = {}
        for cost in COSTS:
            if (spent := _cumulative(cost, own, search)) is not None:
                costs[cost] = spent
        if done:
            found.append(CostPath(strategy, done, costs))
    return found


def _cumulative(
    cost: Cost, trials: Sequence[TrialView], searches: Sequence[SearchView]
) -> list[float] | None:
    """Return what was spent at the end of each training that succeeded, None if not known."""
    searched = [getattr(search, cost) for search in searches if search.status == "succeeded"]
    trained = [getattr(trial, cost) for trial in trials if trial.status == "succeeded"]
    if not trained or None in searched or None in trained:
        return None
    typical = statistics.fmean(trained)
    spent, ends = sum(searched), []
    for trial in trials:
        if trial.status == "succeeded":
            spent += getattr(trial, cost)
            ends.append(spent)
        elif trial.status == "failed":
            spent += typical
        elif trial.status == "stopped":
            spent += typical * (trial.share_done or 0.0)
    return ends


def curve_of(strategy: str, cost: Cost, paths: Sequence[CostPath]) -> Curve | None:
    """Average the best so far over experiments from where all have one; None if there are none.

    Args:
        strategy: Its name.
        cost: In what.
        paths: The strategy in each of its experiments.
    """
    if not paths:
        return None
    ends = [path.costs[cost] for path in paths]
    start = max(end[0] for end in ends)
    points = sorted({point for end in ends for point in end if start <= point})
    best = [[path.best_within(cost, point) for path in paths] for point in points]
    validation = [[t.validation_accuracy for t in row if t is not None] for row in best]
    test = [[t.test_accuracy for t in row if t is not None] for row in best]
    validation_mean, validation_sd = _statistics(validation)
    test_mean, test_sd = _statistics(test)
    assert validation_mean is not None
    return Curve(
        strategy=strategy,
        cost=cost,
        num_experiments=len(paths),
        points=points,
        validation=validation_mean,
        validation_sd=validation_sd,
        test=test_mean,
        test_sd=test_sd,
    )


def _statistics(
    rows: Sequence[Sequence[float | None]],
) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and standard deviation of each row, None where they do not exist."""
    known = [[value for value in row if value is not None] for row in rows]
    if any(len(row) < len(all_) or not row for row, all_ in zip(known, rows, strict=True)):
        return None, None
    spreads = [Spread.of(row) for row in known]
    means = [spread.mean for spread in spreads if spread is not None]
    deviations = [s.sd for s in spreads if s is not None and s.sd is not None]
    return means, deviations if len(deviations) == len(means) else None


def within_of(cost: Cost, budget: float, paths: Sequence[CostPath]) -> Within:
    """Return what a strategy reaches within a cost.

    Args:
        cost: In what.
        budget: How much.
        paths: The strategy in each of its experiments.
    """
    best = [trial for path in paths if (trial := path.best_within(cost, budget)) is not None]
    return Within(
        num_experiments=len(best),
        validation_accuracy=Spread.of([t.validation_accuracy or 0.0 for t in best]),
        test_accuracy=Spread.of([t.test_accuracy for t in best if t.test_accuracy is not None]),
        first=min(path.costs[cost][0] for path in paths),
    )
