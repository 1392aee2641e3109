"""What holds for every method of training, and how one is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.cost import block_costs, count_parameters
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.task import Task
from sedona_nni.training.evaluation import evaluate
from sedona_nni.training.loop import train
from sedona_nni.training.method_settings import METHODS
from sedona_nni.training.methods.asynchronous import AsynchronousSettings
from sedona_nni.training.methods.greedy import GreedySettings
from sedona_nni.training.methods.sequential import SequentialSettings
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.train import evaluate_saved, run_training

TASK = Task(width_multiplier=0.25, train_limit=200)
UNTAUGHT = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["none", "none"])


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(TASK, 0.25)


def test_a_method_is_named_or_described() -> None:
    assert TrainSettings().method == GreedySettings()
    for given in ("sequential", {"name": "sequential"}, SequentialSettings()):
        assert TrainSettings.model_validate({"method": given}).method == SequentialSettings()
    given = {"name": "asynchronous", "buffer": 4, "slow_block": 2, "slowdown": 2}
    settings = TrainSettings.model_validate({"method": given})
    assert settings.method == AsynchronousSettings(buffer=4, slow_block=2, slowdown=2.0)
    again = TrainSettings.model_validate(json.loads(settings.model_dump_json()))
    assert again == settings


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("parallel", "must be one of greedy, asynchronous"),
        ({"name": "greedy", "buffer": 2}, "Extra inputs are not permitted"),
        ({"buffer": 2}, "must have the name of a method, but got {'buffer': 2}"),
        ({"name": "asynchronous", "buffer": 0}, "greater than or equal to 1"),
        ({"name": "asynchronous", "slow_block": 1}, "slow_block must come with a slowdown above 1"),
        ({"name": "asynchronous", "slowdown": 2}, "slow_block must come with a slowdown above 1"),
        (
            {"name": "asynchronous", "slow_block": 1, "slowdown": 2, "order": "round-robin"},
            "slow_block must come with random order",
        ),
    ],
)
def test_bad_methods(method: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate({"method": method})


def test_every_method_has_a_name_of_its_own() -> None:
    assert [*METHODS] == ["greedy", "asynchronous", "ddg", "sequential", "dni", "cdni"]
    for name in METHODS:
        method = TrainSettings.model_validate({"method": name}).method
        assert (type(method), method.name) == (METHODS[name].settings, name)


@pytest.mark.parametrize("name", ["greedy", "sequential", "asynchronous"])
def test_cuts_without_a_classifier_are_refused_by_methods_that_need_one(
    name: str, splits: Splits, tmp_path: Path
) -> None:
    settings = TrainSettings.model_validate({"method": name, "epochs": 1})
    message = f"aux: must be an auxiliary network at every cut for the method {name}"
    with pytest.raises(InputError, match=message):
        run_training(TASK, UNTAUGHT, settings, directory=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    with pytest.raises(InputError, match=message):
        train(build_decoupled(backbone, UNTAUGHT), splits, settings)


def test_a_cut_without_a_classifier_costs_nothing_and_is_not_evaluated(splits: Splits) -> None:
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    whole = count_parameters(build_decoupled(backbone, Decoupling(backbone="vgg11")))
    mixed = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["none", "conv1"])
    network = build_decoupled(backbone, UNTAUGHT)
    assert count_parameters(network) == whole
    costs = block_costs(backbone, mixed)
    assert [cost.auxiliary.parameters > 0 for cost in costs] == [False, True, False]
    assert network.classified == [2]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval().classifier_logits(images)[0], network(images))
    assert len(evaluate(network, splits.test, TrainSettings(), "cpu").accuracies) == 1
    assert build_decoupled(backbone, mixed).classified == [1, 2]


def test_a_training_that_names_no_method_was_greedy(tmp_path: Path) -> None:
    """Files of earlier versions can still be read."""
    settings = TrainSettings(epochs=1, batch_size=50, lr=0.02)
    results = run_training(TASK, Decoupling(backbone="vgg11"), settings, directory=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["settings"].pop("method") == {"name": "greedy"}
    del run["settings"]["lr_decay"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert evaluate_saved(tmp_path)["test_accuracy"] == results["test_accuracy"]
    again = run_training(TASK, Decoupling(backbone="vgg11"), settings, directory=tmp_path)
    assert again == results
