"""Strategies against a simulated clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clocked_table import table

from benchmarks.tabular.race import RACERS, race
from benchmarks.tabular.views import race as view
from sedona_nni.errors import InputError


def test_random_search_has_the_regret_that_theory_expects() -> None:
    """A training costs 2: after 1.9 it has seen nothing, after 2 one, after 14 all seven."""
    found = race(table(), "random", [1.9, 2, 14], repeats=50)
    assert found[:, 0] == pytest.approx(np.full(50, 0.03))  # of a pick at random, exactly
    error = 0.02 / 50**0.5  # of the mean of numbers from 0 to 0.06
    assert found[:, 1].mean() == pytest.approx(0.03, abs=4 * error)
    assert found[:, 2].max() == pytest.approx(0, abs=1e-12)


BEST_OF_THREE = 0.01
"""Regret of the best of three trainings at random: the mean rank of the first of 3 of 7, less 1."""


def test_halving_stops_what_is_worse_and_sees_more() -> None:
    """With early accuracies that tell, it does better in the time of three trainings."""
    halving = race(table(), "successive_halving", [6.0], repeats=200).mean()
    assert halving < BEST_OF_THREE


def test_halving_is_misled_where_the_early_epochs_are() -> None:
    misleading = {j: 0.9 - j / 100 for j in range(7)}
    halving = race(table(misleading), "successive_halving", [6.0], repeats=200).mean()
    assert halving > BEST_OF_THREE


def test_an_epoch_is_seen_when_it_ends() -> None:
    """An epoch takes a half: at 0.4 nothing was seen, at 0.5 one epoch of one decoupling."""
    found = race(table(), "successive_halving", [0.4, 0.5], repeats=50)
    assert found[:, 0] == pytest.approx(np.full(50, 0.03))
    assert len({*found[:, 1].round(6)}) > 1


@pytest.mark.parametrize("name", RACERS)
def test_each_comes_to_something_and_is_drawn_by_seed(name: str) -> None:
    budgets = [4.0, 14.0]
    first, again, other = (race(table(), name, budgets, repeats=4, seed=s) for s in (1, 1, 2))
    assert first.shape == (4, 2)
    assert np.array_equal(first, again)
    assert np.all(first >= 0)
    assert name == "uniform" or not np.array_equal(first, other)


def test_what_is_not_possible_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="--strategy: must be one of random"):
        race(table(), "luck", [1.0])
    with pytest.raises(InputError, match="clock: must be there of all that is compared"):
        race(table().model_copy(update={"clock": None}), "random", [1.0])


def test_the_view_has_every_strategy(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table().model_dump_json(), encoding="utf-8")
    found = view(path, budgets=[4, 2], repeats=2)
    assert found.results["budgets"] == [2, 4]
    assert [*found.results["strategies"]] == [*RACERS]
    assert [row[0] for row in found.tables[0].rows] == [*RACERS]
