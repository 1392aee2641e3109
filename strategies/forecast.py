"""How far an experiment is, and when it will have ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sedona_nni.progress import duration, place
from sedona_nni.strategies.watched import TrialView

__all__ = ["Forecast", "Standing"]


@dataclass(frozen=True)
class Standing:
    """How far an experiment is.

    Attributes:
        ended: Trials that have ended, well or not.
        planned: All trials.
        left_s: Seconds to the end, as far as can be told, None if nothing can.
        is_least: Whether there is something of which nothing can be told yet.
        best: Validation accuracy of the best training, a fraction, and the training's key.
        doing: What is under way, empty if nothing is.
    """

    ended: int
    planned: int
    left_s: float | None
    is_least: bool
    best: tuple[float, str] | None
    doing: str

    @property
    def left_in_words(self) -> str:
        """Say how much time is left, as long as there is something to do."""
        if self.ended == self.planned:
            return ""
        if self.left_s is None:
            return "? left"
        return f"{'> ' if self.is_least else ''}{duration(self.left_s)} left"

    def best_in_words(self, *, with_key: bool) -> str:
        """Say what the best training is, if there is one."""
        if self.best is None:
            return ""
        accuracy, key = self.best
        return f"best {accuracy:.1%}" + (f" ({key})" if with_key else "")


class Forecast:
    """Watches trials and extrapolates.

    A trial goes on at the pace that it has had since it was first seen, so what an interrupted one
    did before counts as done and not as fast. A training that has not begun takes as long as those
    that have ended did or, while there are none, as the ones under way will.

    Args:
        planned: How many trials there will be.
        concurrency: How many run at the same time.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, planned: int, concurrency: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._planned = planned
        self._concurrency = concurrency
        self._clock = clock
        self._first: dict[str, tuple[float, float]] = {}  # when, and what share was done

    def standing(
        self, trials: Sequence[TrialView], latest: Mapping[str, Mapping[str, Any]]
    ) -> Standing:
        """Return how far all is.

        Args:
            trials: All there are, oldest first; one that was killed comes again.
            latest: What trials have reported last, by their ids.
        """
        now = self._clock()
        trials = [*{trial.key: trial for trial in trials}.values()]
        ended = [trial for trial in trials if trial.status == "SUCCEEDED" or trial.has_failed]
        running = [trial for trial in trials if trial.status == "RUNNING"]
        lefts = {trial.id: self._left_s(trial, latest.get(trial.id), now) for trial in running}
        trainings = [trial for trial in ended if trial.is_training and trial.status == "SUCCEEDED"]
        took = [t.ended_at - t.started_at for t in trainings if math.isfinite(t.ended_at)]
        will_take = [
            now - trial.started_at + left
            for trial in running
            if trial.is_training and (left := lefts[trial.id]) is not None
        ]
        ranked = [(t.accuracy, t.key) for t in trainings if t.accuracy is not None]
        typical = fmean(took or will_take) if took or will_take else None
        for trial in running:
            if lefts[trial.id] is None and trial.is_training and typical is not None:
                lefts[trial.id] = max(0.0, typical - (now - trial.started_at))
        planned = max(self._planned, len(trials))
        to_come = planned - len(ended) - len(running)
        known = [left for left in lefts.values() if left is not None]
        work = sum(known) + to_come * (typical or 0.0)
        is_least = len(known) < len(running) or (to_come > 0 and typical is None)
        nothing_known = is_least and not known
        return Standing(
            ended=len(ended),
            planned=planned,
            left_s=None if nothing_known else max([work / self._concurrency, *known]),
            is_least=is_least,
            best=max(ranked, key=lambda pair: pair[0], default=None),
            doing=_in_words(running[0], latest.get(running[0].id)) if running else "",
        )

    def _left_s(
        self, trial: TrialView, numbers: Mapping[str, Any] | None, now: float
    ) -> float | None:
        """Return what a running trial still needs, None while that is unknown."""
        where = place(numbers or {})
        if where is None:
            return None
        share = where.done / where.total
        since, before = self._first.setdefault(trial.id, (now, share))
        if share > before:
            return (now - since) / (share - before) * (1 - share)
        return (now - trial.started_at) / share * (1 - share) if share > 0 else None


def _in_words(trial: TrialView, numbers: Mapping[str, Any] | None) -> str:
    where = place(numbers or {})
    return trial.key if where is None else f"{trial.key}: {where}"
