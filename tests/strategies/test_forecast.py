"""`sedona_nni.strategies.forecast`: how far an experiment is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_records import search, training

from sedona_nni.strategies.forecast import Forecast
from sedona_nni.strategies.watched import TrialView


def trial(
    key: str, status: str, started: float, ended: float = math.inf, accuracy: Any = None
) -> TrialView:
    trial = search("sedona") if key == "search" else training(key)
    result = None if accuracy is None else {"default": accuracy}
    return TrialView(
        f"id-{key}",
        trial.model_dump(mode="json"),
        status,
        result,
        started_at=started,
        ended_at=ended,
    )


def epoch(number: int, total: int = 8) -> dict[str, Any]:
    return {"default": 0.942, "epoch": number, "epochs": total}


def forecast(now: float, planned: int = 5, concurrency: int = 1) -> Forecast:
    return Forecast(planned, concurrency, lambda: now)


SEARCH = trial("search", "SUCCEEDED", 0, 40, 0.99)  # better than any training: it does not count


def test_what_is_to_come_takes_as_long_as_what_is_done() -> None:
    done = [trial("b-000", "SUCCEEDED", 40, 50, 0.95), trial("b-001", "SUCCEEDED", 50, 70, 0.93)]
    running = trial("a-001", "RUNNING", 70)
    standing = forecast(74).standing([SEARCH, *done, running], {running.id: epoch(2)})
    assert (standing.ended, standing.planned) == (3, 5)
    assert standing.left_s == pytest.approx(12 + 15)  # 4 s for 2 of 8 epochs; mean of 10 and 20
    assert standing.left_in_words == "27 s left"
    assert standing.best_in_words(with_key=True) == "best 95.0% (b-000)"
    assert standing.doing == "a-001: epoch 2 of 8, validation accuracy 94.2%"


def test_two_at_a_time_take_half_as_long_but_not_less_than_one() -> None:
    running = [trial("a-000", "RUNNING", 0), trial("b-000", "RUNNING", 0)]
    latest = {running[0].id: epoch(4), running[1].id: epoch(1)}
    standing = forecast(10, planned=2, concurrency=2).standing(running, latest)
    assert standing.left_s == pytest.approx(70)
    standing = forecast(10, planned=6, concurrency=2).standing(running, latest)
    assert standing.left_s == pytest.approx((10 + 70 + 4 * 50) / 2)


def test_during_the_search_the_trainings_are_unknown() -> None:
    search = trial("search", "RUNNING", 0)
    numbers = {"default": 0.1, "decided": 0.0, "step": 60, "steps": 240}
    standing = forecast(20).standing([search], {search.id: numbers})
    assert standing.left_in_words == "> 60 s left"
    assert standing.best_in_words(with_key=True) == ""
    assert forecast(20).standing([search], {}).left_in_words == "? left"


def test_a_resumed_trial_counts_from_where_it_is() -> None:
    """Half of it was done before: it is not as fast as that looks."""
    running = trial("a-000", "RUNNING", 0)
    now = 1.0
    watched = Forecast(1, 1, lambda: now)
    watched.standing([running], {running.id: epoch(4)})
    now = 11.0
    standing = watched.standing([running], {running.id: epoch(5)})
    assert standing.left_s == pytest.approx(30)


def test_failed_trainings_have_ended_and_are_not_the_best() -> None:
    trials = [trial("a-000", "FAILED", 0, 5), trial("a-001", "SUCCEEDED", 5, 10, math.nan)]
    standing = forecast(10, planned=2).standing(trials, {})
    assert (standing.ended, standing.planned, standing.best, standing.left_s) == (2, 2, None, 0)


def test_one_that_was_killed_counts_once() -> None:
    killed, again = trial("a-000", "USER_CANCELED", 40, 50), trial("a-000", "RUNNING", 60)
    standing = forecast(70, planned=2).standing([SEARCH, killed, again], {again.id: epoch(4)})
    assert (standing.ended, standing.planned) == (1, 2)
    assert standing.left_s == pytest.approx(10)


def test_more_trials_than_planned() -> None:
    trials = [trial(f"a-{n:03d}", "SUCCEEDED", n, n + 1, 0.5) for n in range(3)]
    assert forecast(3, planned=2).standing(trials, {}).planned == 3
