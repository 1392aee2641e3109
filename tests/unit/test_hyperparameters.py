"""`strategies.hyperparameters`."""

from __future__ import annotations

import math
import random
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sedona_nni.errors import InputError
from sedona_nni.training import TrainSettings
from strategies.hyperparameters import Study, _span, importance, read_search_space

TRAIN = TrainSettings(lr_min=0.0)


@pytest.mark.parametrize(
    ("name", "kind", "values", "expected"),
    [
        ("batch_size", "choice", [32, 64], CategoricalDistribution([32, 64])),
        ("epochs", "randint", [3, 6], IntDistribution(3, 5)),  # NNI leaves the upper bound out
        ("momentum", "uniform", [0.5, 0.9], FloatDistribution(0.5, 0.9)),
        ("momentum", "quniform", [0.5, 0.95, 0.1], FloatDistribution(0.5, 0.9, step=0.1)),
        ("lr", "loguniform", [0.01, 1], FloatDistribution(0.01, 1, log=True)),
    ],
)
def test_types_of_nni(name: str, kind: str, values: list[float], expected: object) -> None:
    space = read_search_space({name: {"_type": kind, "_value": values}}, TRAIN)
    assert space == {name: expected}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rate": {"_type": "uniform", "_value": [0, 1]}}, "searchSpace.learning_rate: "),
        ({"lr": {"_type": "normal", "_value": [0, 1]}}, "searchSpace.lr: must be of a type"),
        ({"lr": {"_type": "uniform", "_value": [0.1]}}, "searchSpace.lr: must be of a type"),
        ({"lr": {"_type": "uniform"}}, "searchSpace.lr: must be of a type"),
        ({"lr": 0.1}, "searchSpace.lr: must be of a type"),
        ({"lr": {"_type": "uniform", "_value": [0.0, 1]}}, "searchSpace.lr.lr: "),
        ({"optimizer": {"_type": "choice", "_value": ["sgd", "lion"]}}, "searchSpace.optimizer"),
        ({"lr": {"_type": "loguniform", "_value": [1, 0.1]}}, "searchSpace.lr: must be of a type"),
    ],
)
def test_wrong_spaces(space: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_search_space(space, TRAIN)
    assert str(caught.value).startswith(message)


def study(seed: int = 1) -> Study:
    space = {"lr": FloatDistribution(0.01, 1, log=True)}
    return Study("s", optuna.storages.InMemoryStorage(), space, "tpe", seed)


def test_draws_depend_on_the_seed() -> None:
    one, same, other = study(), study(), study(seed=2)
    draws = [one.ask() for _ in range(3)]
    assert draws == [same.ask() for _ in range(3)]
    assert draws != [other.ask() for _ in range(3)]
    assert [number for number, _ in draws] == [0, 1, 2]


def test_the_first_entry_of_a_trial_stays() -> None:
    tuned = study()
    number, _ = tuned.ask()
    tuned.tell(number, None)
    tuned.tell(number, 0.5)
    assert [t.state.name for t in tuned._study.trials] == ["FAIL"]


def test_a_draw_that_was_never_handed_out_counts_as_failed() -> None:
    tuned = study()
    tuned.ask()
    tuned.ask()
    tuned.forget_others({1})
    assert [t.state.name for t in tuned._study.trials] == ["FAIL", "RUNNING"]


def test_importance_finds_what_matters() -> None:
    rng = random.Random(0)
    trials = []
    for _ in range(30):
        lr, decay = 10 ** rng.uniform(-3, 0), rng.uniform(0, 1)
        drawn = {"lr": lr, "weight_decay": decay, "milestones": [rng.choice([1, 2])], "epochs": 5}
        trials.append((drawn, 1 - abs(math.log10(lr) + 1) / 3))
    shares = importance(trials)
    assert set(shares) == {"lr", "weight_decay", "milestones"}  # epochs is always the same
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.002, 0.1], FloatDistribution(0.002, 0.5, log=True)),
        ([0.5, 0.9], FloatDistribution(0.5, 0.9)),
        ([0.0, 0.9], FloatDistribution(0.0, 0.9)),
        ([3, 5, 4], IntDistribution(3, 5)),
        ([True, False], CategoricalDistribution(["False", "True"])),
        ([[1], [1, 2]], CategoricalDistribution(["[1, 2]", "[1]"])),
        ([0.1, 0.1], None),
    ],
)
def test_the_space_that_values_span(values: list[Any], expected: Any) -> None:
    assert _span(values) == expected


@pytest.mark.parametrize(
    "trials",
    [
        [({"lr": 0.1}, 0.1), ({"lr": 0.1}, 0.9)],
        [({"lr": 0.1}, 0.5), ({"lr": 0.2}, 0.5)],
        [({}, 0.1), ({}, 0.9)],
    ],
)
def test_nothing_matters_where_nothing_varies(trials: list[Any]) -> None:
    assert importance(trials) == {}
