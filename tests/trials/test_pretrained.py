"""Trainings and searches that begin with weights of a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import SmallModel

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import evaluate_saved, run_training

MODEL = "small_model:build"
DECOUPLING = Decoupling(backbone=MODEL, cuts=[0], aux=["linear"])
SETTINGS = TrainSettings(epochs=1, batch_size=20, lr=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Return a task of 10 classes that begins with weights for 4."""
    torch.manual_seed(1)
    save_file(SmallModel(4).state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    return Task.model_validate(
        {"model": MODEL, "image_size": 8, "train_limit": 60, "weights": weights}
    )


def test_every_network_of_the_task_has_them(task: Task) -> None:
    assert task.weights is not None
    first = load_file(task.weights)["units.0.convolution.weight"]
    network = initial_network(task, DECOUPLING, seed=3)
    assert torch.equal(network.blocks[0].state_dict()["layers.0.units.0.convolution.weight"], first)
    other = initial_network(task, DECOUPLING, seed=4)
    drawn = ("blocks.0.classifier", "blocks.1.classifier.classifier")
    for name, weight in network.state_dict().items():
        same = torch.equal(weight, other.state_dict()[name])
        assert same or name.startswith(drawn), name
    assert torch.equal(
        task_backbone(task).layers[0].state_dict()["units.0.norm.weight"], torch.ones(6)
    )


def test_a_training_goes_on_with_the_same_weights_alone(
    task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sedona_nni"):
        results = run_training(task, DECOUPLING, SETTINGS, directory=tmp_path / "d")
    told = [r.message for r in caplog.records if "drawn anew" in r.message]
    assert len(told) == 1
    assert "weights: drawn anew for 10 classes" in told[0]
    assert told[0].endswith("w.safetensors: classifier.weight, classifier.bias")

    path = tmp_path / "moved.safetensors"
    Path(str(task.weights)).rename(path)
    assert evaluate_saved(tmp_path / "d")["test_accuracy"] == results["test_accuracy"]
    moved = task.model_copy(update={"weights": str(path)})
    assert run_training(moved, DECOUPLING, SETTINGS, directory=tmp_path / "d") == results
    bare = task.model_copy(update={"weights": None})
    with pytest.raises(InputError, match="holds another training"):
        run_training(bare, DECOUPLING, SETTINGS, directory=tmp_path / "d")
    save_file(SmallModel(4).state_dict(), path)
    with pytest.raises(InputError, match=r"^weights: the file must be the one that .* began with"):
        run_training(moved, DECOUPLING, SETTINGS, directory=tmp_path / "d")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("probe", ProbeSettings(cost=0.5)),
        (
            "sedona",
            SearchSettings(
                pretrain_steps=1,
                meta_steps=1,
                inner_steps=1,
                batch_size=8,
                validation_batch_size=8,
                memory_size=1,
                lr=1e-12,
                lr_min=0,
            ),
        ),
    ],
)
def test_a_search_begins_with_them(
    task: Task, tmp_path: Path, name: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    first = load_file(str(task.weights))["units.0.convolution.weight"]
    inner = torch.nn.functional.conv2d

    def seen(images: Any, weight: Any, *rest: Any, **more: Any) -> Any:
        if weight.shape == first.shape and not weight.is_meta:
            given.append(torch.allclose(torch.as_tensor(weight).detach(), first))
        return inner(images, weight, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", seen)
    train = SETTINGS.model_copy(update={"lr": 1e-12, "lr_min": 0.0})
    found = run_search(name, task, settings, aux=["linear"], train=train, directory=tmp_path / "s")
    assert given
    assert all(given)
    assert json.loads((tmp_path / "s" / "run.json").read_text())["weights"] == found["weights"]
    save_file(SmallModel(4).state_dict(), str(task.weights))
    with pytest.raises(InputError, match=r"^weights: the file must be the one"):
        run_search(name, task, settings, aux=["linear"], train=train, directory=tmp_path / "s")
