"""`sedona_nni.strategies.hyperparameters`."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sedona_nni.errors import InputError
from sedona_nni.strategies.hyperparameters import (
    Study,
    importance,
    read_search_space,
    spanned_space,
    study_url,
)
from sedona_nni.training.settings import TrainSettings

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
        ({"lr": {"_type": "normal", "_value": [0, 1]}}, "searchSpace.lr: must have a _type of ch"),
        ({"lr": {"_type": ["uniform"], "_value": [0, 1]}}, "searchSpace.lr: must have a _type of"),
        ({"lr": {"_type": "uniform", "_value": [0.1]}}, "searchSpace.lr: must be [low, high], nu"),
        ({"lr": {"_type": "uniform"}}, "searchSpace.lr: must be [low, high], numbers, for uniform"),
        ({"lr": {"_type": "uniform", "_value": ["low", 1]}}, "searchSpace.lr: must be [low, high]"),
        ({"lr": {"_type": "uniform", "_value": [True, 2]}}, "searchSpace.lr: must be [low, high]"),
        ({"lr": {"_type": "quniform", "_value": [1, 2, 0]}}, "searchSpace.lr: must be [low, high,"),
        ({"lr": {"_type": "choice", "_value": []}}, "searchSpace.lr: must be [one, another, ...]"),
        ({"epochs": {"_type": "randint", "_value": [1, 2.5]}}, "searchSpace.epochs: must be [low,"),
        *(
            (
                {"epochs": {"_type": kind, "_value": [2, 8]}},
                "searchSpace.epochs: Input should be a v",
            )
            for kind in ("uniform", "loguniform")
        ),
        (
            {"batch_size": {"_type": "quniform", "_value": [32, 33, 0.5]}},
            "searchSpace.batch_size: Input should be a valid integer",
        ),
        ({"lr": 0.1}, "searchSpace.lr: must have a _type of choice, randint, uniform, quniform, "),
        ({"lr": {"_type": "uniform", "_value": [0.0, 1]}}, "searchSpace.lr: Input should be gre"),
        ({"optimizer": {"_type": "choice", "_value": ["sgd", "lion"]}}, "searchSpace.optimizer: I"),
        ({"lr": {"_type": "loguniform", "_value": [1, 0.1]}}, "searchSpace.lr: must be [low, hig"),
    ],
)
def test_wrong_spaces(space: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_search_space(space, TRAIN)
    assert str(caught.value).startswith(message)


def space_of(**ranges: list[Any]) -> dict[str, Any]:
    """Return a space of choices, or of a range where there is a number of YAML 1.1 or a float."""
    return {
        name: {
            "_type": "choice" if name in ("milestones", "amp", "schedule", "epochs") else "uniform",
            "_value": values,
        }
        for name, values in ranges.items()
    }


@pytest.mark.parametrize(
    ("space", "train", "message"),
    [
        (
            space_of(lr=[0.01, 1.0], lr_min=[0.0, 0.02]),
            {},
            "searchSpace.lr, searchSpace.lr_min: lr_min must be at most lr, 0.01, but got 0.02; "
            "every combination of their values must be possible, please narrow them",
        ),
        (
            space_of(momentum=[0.1, 0.9], lr=[0.01, 1.0]),
            {"lr_min": 0.05},
            "searchSpace.lr: lr_min must be at most lr, 0.01, but got 0.05",
        ),
        (
            space_of(milestones=[[1], [1, 30]], epochs=[40, 30]),
            {"schedule": "multistep"},
            "searchSpace.milestones, searchSpace.epochs: milestones must rise from 1 to 29, but "
            "got [1, 30]; every combination",
        ),
        (
            space_of(schedule=["cosine", "multistep"]),
            {},
            "searchSpace.schedule: milestones must be given for the multistep schedule and for no",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Choices for a categorical")  # of lists; they are kept as JSON
def test_combinations_that_are_not_possible(
    space: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    fixed = {"milestones": [1]} if train.get("schedule") else {}
    settings = TrainSettings.model_validate({"lr_min": 0.0, **fixed, **train})
    with pytest.raises(InputError) as caught:
        read_search_space(space, settings)
    assert str(caught.value).startswith(message)


def test_what_is_possible_together_need_not_be_so_alone() -> None:
    """The lowest rate is below that of the settings, but above the one that is tuned with it."""
    settings = TrainSettings(lr=1, lr_min=0.5)
    space = read_search_space(space_of(lr=[0.01, 1.0], lr_min=[0.0, 0.01]), settings)
    assert list(space) == ["lr", "lr_min"]


def test_yaml_makes_texts_of_numbers_and_booleans_of_words() -> None:
    """PyYAML, and so NNI, reads YAML 1.1: a number with an exponent needs a point and a sign."""
    text = """
        lr: {_type: loguniform, _value: [1e-3, 1]}
        weight_decay: {_type: choice, _value: [1e-4, 1e-3]}
        amp: {_type: choice, _value: [no, bf16]}
    """
    space = yaml.safe_load(text)
    assert space["lr"]["_value"] == ["1e-3", 1]
    assert read_search_space(space, TRAIN) == {
        "lr": FloatDistribution(0.001, 1, log=True),
        "weight_decay": CategoricalDistribution([0.0001, 0.001]),
        "amp": CategoricalDistribution(["no", "bf16"]),
    }


def test_options_of_training_are_tuned_by_the_same_names() -> None:
    def one_of(*values: Any) -> dict[str, Any]:
        return {"_type": "choice", "_value": list(values)}

    space = read_search_space(
        {
            "optimizer": one_of("sgd", "adamw"),
            "augmentation": one_of("dataset", "randaugment"),
            "clip_norm": one_of(None, 1.0),
            "warmup_epochs": {"_type": "randint", "_value": [0, 6]},
            "ema_decay": {"_type": "loguniform", "_value": [0.9, 0.999]},
            "mixup": {"_type": "uniform", "_value": [0, 0.4]},
        },
        TrainSettings(),
    )
    assert len(space) == 6
    message = r"searchSpace\.nesterov: nesterov must come with sgd .* but got adamw"
    entries = {"optimizer": one_of("sgd", "adamw"), "nesterov": one_of(True, False)}
    with pytest.raises(InputError, match=message):
        read_search_space(entries, TrainSettings())


def test_what_is_fixed_is_not_tuned() -> None:
    space = space_of(lr=[0.01, 1.0], momentum=[0.1, 0.9])
    assert list(read_search_space(space, TRAIN, fixed={"lr"})) == ["momentum"]
    assert list(read_search_space(space, TRAIN)) == ["lr", "momentum"]


@pytest.mark.parametrize("folder", ["a%20b", "a?b=c#d", "ü {0} b", 'q"uote'])
def test_a_study_may_lie_in_any_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder[:1]).mkdir()  # what would be left of it in front of a question mark
    storage = optuna.storages.RDBStorage(study_url(tmp_path / folder / "optuna.db"))
    optuna.create_study(storage=storage, study_name="s")
    assert [path.name for path in tmp_path.rglob("optuna.db")] == ["optuna.db"]
    assert (tmp_path / folder / "optuna.db").exists()


def test_seeds_of_samplers_have_32_bits() -> None:
    assert study(seed=2021).ask()[1] == {"lr": pytest.approx(0.060774310184, rel=1e-9)}
    large = [study(seed=seed).ask() for seed in (20240101, 20240102, 2**60)]
    assert len({draw["lr"] for _, draw in large}) == 3


def study(seed: int = 1, storage: optuna.storages.BaseStorage | None = None) -> Study:
    space = {"lr": FloatDistribution(0.01, 1, log=True)}
    return Study("s", storage or optuna.storages.InMemoryStorage(), space, "tpe", seed)


def states(storage: optuna.storages.BaseStorage) -> list[str]:
    """Return what has become of the trials of a study."""
    return [trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials]


def test_draws_depend_on_the_seed() -> None:
    one, same, other = study(), study(), study(seed=2)
    draws = [one.ask() for _ in range(3)]
    assert draws == [same.ask() for _ in range(3)]
    assert draws != [other.ask() for _ in range(3)]
    assert [number for number, _ in draws] == [0, 1, 2]


def test_the_first_entry_of_a_trial_stays() -> None:
    storage = optuna.storages.InMemoryStorage()
    tuned = study(storage=storage)
    number, _ = tuned.ask()
    tuned.tell(number, None)
    tuned.tell(number, 0.5)
    assert states(storage) == ["FAIL"]


def test_a_draw_that_was_never_handed_out_comes_first() -> None:
    """So that trials have the same numbers, seeds and draws as if nothing had gone wrong."""
    undisturbed = study()
    draws = [undisturbed.ask() for _ in range(3)]
    storage = optuna.storages.InMemoryStorage()
    tuned = study(storage=storage)
    assert [tuned.ask(), tuned.ask()] == draws[:2]
    again = study(storage=storage)
    again.take_up({0})
    assert [again.ask(), again.ask()] == draws[1:]
    assert states(storage) == ["RUNNING"] * 3


def test_half_a_draw_counts_as_failed() -> None:
    storage = optuna.storages.InMemoryStorage()
    tuned = study(storage=storage)
    (name,) = optuna.get_all_study_names(storage)
    storage.create_new_trial(storage.get_study_id_from_name(name))
    tuned.take_up(set())
    assert states(storage) == ["FAIL"]


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
    assert spanned_space(values) == expected


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
