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

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import FeatureShape, build_backbone
from sedona_nni.models.pretrained import is_pretrained
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.methods import build_method
from sedona_nni.training.parallel.rehearsal import step_peak_mib
from sedona_nni.training.settings import Parallel, TrainSettings
from sedona_nni.training.stage import Stage
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials.memory_check import needed_bytes
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import (
    TrainingRun,
    evaluate_saved,
    run_training,
    step_memory_mib,
)

MODEL = "small_model:build"
DECOUPLING = Decoupling(backbone=MODEL, cuts=[0], aux=["linear"])
SETTINGS = TrainSettings(epochs=1, batch_size=20, lr=0.05)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def beginning_with(classes: int, folder: Path) -> Task:
    """Return a task of 10 classes that begins with weights for so many."""
    torch.manual_seed(1)
    weights = folder / f"{classes}.safetensors"
    save_file(SmallModel(classes).state_dict(), weights)
    return Task.model_validate(
        {"model": MODEL, "image_size": 8, "train_limit": 60, "weights": str(weights)}
    )


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return beginning_with(4, tmp_path)


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
    assert told[0].endswith("4.safetensors: classifier.weight, classifier.bias")

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
        ("probe", ProbeSettings()),
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


METHODS: list[Any] = ["greedy", "sequential", "asynchronous", "ddg", "dni"]


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_a_rate_they_stay_as_they_are(
    task: Task, tmp_path: Path, method: str, optimizer: str
) -> None:
    """All else learns: auxiliary networks, and the classifier for other classes."""
    cut = (
        DECOUPLING.model_copy(update={"aux": ["none"]}) if method in ("ddg", "dni") else DECOUPLING
    )
    given = {"method": method, "optimizer": optimizer, "lr_pretrained": 0}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    first = initial_network(task, cut, settings.seed)
    run_training(task, cut, settings, directory=tmp_path / "d")
    after = load_file(tmp_path / "d" / "model.safetensors")
    for name, weight in first.named_parameters():
        same = torch.equal(after[name], weight)
        assert same == is_pretrained(weight), name
    norm = "blocks.0.layers.0.units.0.norm.running_mean"
    assert not torch.equal(after[norm], first.state_dict()[norm])


@pytest.mark.parametrize(
    ("method", "aux"), [("greedy", "linear"), ("ddg", "none"), ("dni", "none")]
)
def test_nothing_is_computed_for_frozen_weights(task: Task, method: str, aux: str) -> None:
    """Also where all weights of a block are such, and it learns from what is above."""
    network = initial_network(task, DECOUPLING.model_copy(update={"aux": [aux]}), 0)
    given = {"lr_pretrained": 0, "method": method}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    splits = load_splits(task, settings.validation_fraction)
    build_method(network, settings, splits, steps_per_epoch=10)
    for name, weight in network.named_parameters():
        assert weight.requires_grad != is_pretrained(weight), name


def test_a_classifier_of_the_file_cannot_be_frozen(tmp_path: Path) -> None:
    """Nothing would be left to learn."""
    whole = initial_network(beginning_with(10, tmp_path), Decoupling(backbone=MODEL), 0)
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), "lr_pretrained": 0})
    splits = load_splits(Task(train_limit=60), settings.validation_fraction)
    with pytest.raises(InputError, match=r"^lr_pretrained: must be above 0 where all weights of a"):
        build_method(whole, settings, splits, steps_per_epoch=10)


def test_memory_is_foretold_and_rehearsed_without_what_is_frozen(task: Task) -> None:
    """Neither their gradients and their state of Adam, nor activations for them."""
    given = {**SETTINGS.model_dump(), "optimizer": "adam"}
    needed, rehearsed, measured = [], [], []
    for rate in (1, 0):
        settings = TrainSettings.model_validate({**given, "lr_pretrained": rate})
        needed += needed_bytes(task, DECOUPLING, settings, CPU)
        splits = load_splits(task, settings.validation_fraction)
        lower = DecoupledNetwork([initial_network(task, DECOUPLING, 1).blocks[0]])
        shape = FeatureShape(3, 8)
        rehearsed.append(step_peak_mib(lower, shape, 20, splits, settings, Stage(2, 0), CPU))
        run = TrainingRun(task=task, decoupling=DECOUPLING, settings=settings)
        measured.append(step_memory_mib(run, splits, CPU) * 2**20)
        assert all(not is_pretrained(w) or w.requires_grad for w in lower.parameters())
    # Of so small a network what kernels take for themselves counts, so only that it is too little
    assert needed[1] < 1.01 * measured[1] < 0.8 * measured[0]
    assert rehearsed[1] < 0.8 * rehearsed[0]


def test_a_layer_that_is_shared_and_frozen_has_no_gradients(tmp_path: Path) -> None:
    """So an overlap takes no more of the block above it."""
    weights = tmp_path / "vgg11.safetensors"
    form = {"width_multiplier": 0.25, "image_size": 32}
    save_file(build_backbone("vgg11", num_classes=10, **form).state_dict(), weights)
    given = {"weights": str(weights), "reset_classifier": True, "train_limit": 60, **form}
    task = Task.model_validate({"backbone": "vgg11", **given})
    settings = TrainSettings(batch_size=2, lr_pretrained=0, parallel=Parallel())
    plain, overlapping = (
        needed_bytes(task, Decoupling(backbone="vgg11", cuts=[5], aux=[aux]), settings, CPU)
        for aux in ("linear", "linear+overlap")
    )
    assert overlapping == plain


@pytest.mark.slow(reason="a training in processes")
def test_a_rate_in_processes(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    given = {"parallel": "blocks", "lr_pretrained": 0.5}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    alone = settings.model_copy(update={"parallel": None})
    run_training(task, DECOUPLING, alone, directory=tmp_path / "one")
    run_training(task, DECOUPLING, settings, directory=tmp_path / "two")
    one, two = (load_file(tmp_path / each / "model.safetensors") for each in ("one", "two"))
    # A network of its own in each process, so kernels may differ by the place of a tensor
    torch.testing.assert_close(one, two)


@pytest.mark.slow(reason="a training in processes")
def test_frozen_weights_of_replicas(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for each other's gradients, of what has any."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    given = {"parallel": {"name": "blocks", "replicas": [2, 1]}, "lr_pretrained": 0}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})
    run_training(task, DECOUPLING, settings, directory=tmp_path)
    first = initial_network(task, DECOUPLING, settings.seed)
    learned = load_file(tmp_path / "model.safetensors")
    frozen = {name for name, weight in first.named_parameters() if is_pretrained(weight)}
    for name, weight in first.named_parameters():
        assert torch.equal(learned[name], weight) == (name in frozen), name


class Killed(Exception):
    pass


def test_it_goes_on_with_both_rates(task: Task, tmp_path: Path) -> None:
    given = {"epochs": 2, "lr_pretrained": 0.1}
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), **given})

    def die(numbers: dict[str, float]) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_training(task, DECOUPLING, settings, directory=tmp_path / "cut", report=die)
    run_training(task, DECOUPLING, settings, directory=tmp_path / "cut")
    run_training(task, DECOUPLING, settings, directory=tmp_path / "whole")
    cut, whole = (load_file(tmp_path / each / "model.safetensors") for each in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_rate_of_weights_that_there_are_not(task: Task) -> None:
    bare = task.model_copy(update={"weights": None})
    settings = SETTINGS.model_copy(update={"lr_pretrained": 0.1})
    with pytest.raises(
        InputError, match=r"^lr_pretrained: must be 1 where the task has no weights"
    ):
        run_training(bare, DECOUPLING, settings)


@pytest.fixture
def of_as_many(tmp_path: Path) -> Task:
    return beginning_with(10, tmp_path)


def test_a_classifier_of_as_many_classes_is_kept_or_reset(of_as_many: Task) -> None:
    assert of_as_many.weights is not None
    theirs = load_file(of_as_many.weights)
    reset = of_as_many.model_copy(update={"reset_classifier": True})
    kept, new = task_backbone(of_as_many), task_backbone(reset)
    assert (kept.fresh, new.fresh) == ((), ("classifier.weight", "classifier.bias"))
    assert torch.equal(kept.head.state_dict()["classifier.weight"], theirs["classifier.weight"])
    assert not torch.equal(new.head.state_dict()["classifier.weight"], theirs["classifier.weight"])
    for network in (kept, new):
        assert torch.equal(network.layers[0].state_dict()["units.0.norm.weight"], torch.ones(6))
    fresh = {name for name, weight in new.named_parameters() if not is_pretrained(weight)}
    assert fresh == {"head.classifier.weight", "head.classifier.bias"}


def test_what_would_learn_nothing_is_refused(of_as_many: Task, tmp_path: Path) -> None:
    frozen = SETTINGS.model_copy(update={"lr_pretrained": 0})
    uncut = Decoupling(backbone=MODEL, cuts=[], aux=[])
    rule = "^lr_pretrained: must be above 0 where the classifier is the file's, or reset_classifier"
    with pytest.raises(InputError, match=rule):
        run_training(of_as_many, uncut, frozen, directory=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    reset = of_as_many.model_copy(update={"reset_classifier": True})
    run_training(reset, uncut, frozen, directory=tmp_path / "head")
    assert of_as_many.weights is not None
    learned, theirs = (
        load_file(tmp_path / "head" / "model.safetensors"),
        load_file(of_as_many.weights),
    )
    (weight,) = (learned[name] for name in learned if name.endswith("units.0.convolution.weight"))
    assert torch.equal(weight, theirs["units.0.convolution.weight"])
    with pytest.raises(ValueError, match="reset_classifier: must be false without weights"):
        Task(reset_classifier=True)
