"""``sedona-nni train`` and ``test``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shell import EXPERIMENTS, QUICKSTART, RESNET50, sedona

from sedona_nni.data.batches import Batch
from sedona_nni.data.sets import evaluation_batches, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.training.parallel.host import starter


def small_experiment(folder: Path) -> str:
    """Write the quickstart with fewer images and a narrower backbone."""
    experiment = (EXPERIMENTS / "quickstart.yml").read_text()
    small = experiment.replace(
        "dataset: digits", "dataset: digits, train_limit: 100, width_multiplier: 0.25"
    )
    (folder / "small.yml").write_text(small.replace(": ..", ": ."))
    return "small.yml"


@pytest.mark.slow(reason="every command imports PyTorch")
def test_train_and_test(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PredSim's blocks, and their ensemble, which the release could not form."""
    train = ("train", small_experiment(elsewhere), "--directory", "trained")
    changes = ("--set", "epochs=2", "--set", "batch_size=16", "--set", "amp=no")
    multistep = ("--set", "schedule=multistep", "--set", "milestones=[1]", "--set", "lr=1e-2")
    changes += (*multistep, "--set", "classes_per_batch=null")
    chosen = ("--decoupling", "uniform:2:predsim")
    assert sedona(monkeypatch, *train, *chosen, *changes, "--json", "--device", "cpu") == 0
    captured = capsys.readouterr()
    trained = json.loads(captured.out)
    assert captured.err.startswith("digits: 10 classes (0, 1, 2, 3, 4, 5, and 4 more); images: ")
    assert re.findall(r"^epoch (\d) of 2, validation accuracy ", captured.err, re.M) == ["1", "2"]
    settings = json.loads(Path("trained/run.json").read_text())["settings"]
    assert (settings["milestones"], settings["lr"], settings["amp"]) == ([1], 0.01, "no")
    assert sedona(monkeypatch, "test", "trained", "--json", "--device", "cpu") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"] == tested["block_2_accuracy"]
    assert tested["same_data"] is True
    assert "test_ensemble_accuracy" not in tested
    assert sedona(monkeypatch, "test", "trained", "--ensemble", "2", "--json") == 0
    both = json.loads(capsys.readouterr().out)
    assert both["test_accuracy"] == tested["test_accuracy"]
    network = trained_network(Path("trained"))
    right = total = 0
    for images, labels in digits_test_part():
        with torch.no_grad():
            logits = network.classifier_logits(images)
        votes = sum(part.log_softmax(1) for part in logits)
        right += int((votes.argmax(1) == labels).sum())
        total += len(labels)
    assert both["test_ensemble_accuracy"] == pytest.approx(right / total)
    assert sedona(monkeypatch, "test", "trained", "--ensemble", "0") == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("milestones=[2", "--set: must have a VALUE as in YAML, but got 'milestones=[2'"),
        ("lr.x=1", "--set.lr.x: unknown field"),
        ("nowhere.x=1", "--set.nowhere.x: unknown field"),
        (
            "epochs=1e1",
            "--set.epochs: Input should be a valid integer, unable to parse string as an integer "
            "(YAML 1.1 takes 1e1 for a text; write 10), but got '1e1'",
        ),
        ("optimizer=no", "--set.optimizer: Input should be 'sgd'"),
    ],
)
def test_settings_that_are_wrong(
    setting: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = ("train", QUICKSTART, "--directory", "d", "--decoupling", "backprop")
    assert sedona(monkeypatch, *train, "--set", setting) == 2
    assert message in capsys.readouterr().err
    assert not Path("d").exists()


@pytest.mark.parametrize(
    ("replicas", "options", "rule"),
    [
        (2, ("batch_size=2",), "leave each process 2 of the 2 images of a batch"),
        (4, ("batch_size=6", "views=2"), "divide the batch of 6 images evenly, in 2 at a time: "),
        (2, ("batch_size=8", "views=2", "accumulate=2"), "leave each process 8 of the 8 images"),
    ],
)
def test_replicas_that_cannot_divide_a_batch(
    replicas: int,
    options: tuple[str, ...],
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"parallel={{name: blocks, replicas: {replicas}}}", *options]
    words = [word for each in given for word in ("--set", each)]
    train = ("train", QUICKSTART, "--directory", "d", "--decoupling", "uniform:2:conv1", *words)
    assert sedona(monkeypatch, *train) == 2
    with starter():  # which the command has prepared for ranks, and which would be left
        pass
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"sedona-nni: parallel.replicas: must {rule}")
    assert last.endswith(f", but got {replicas}")


@pytest.mark.parametrize(
    ("decoupling", "options", "message"),
    [
        ("uniform:2:none", (), "aux: must be an auxiliary network at every cut for the method"),
        ("uniform:2:conv1", ("--method", "ddg"), "aux: must be none at every cut for the method"),
        ("uniform:2:barlow", (), "views: must be 2 for barlow, but got 1"),
        (
            "uniform:2:infopro",
            ("--parallel", "blocks"),
            "aux: must not look beyond its boundary where blocks are trained in parallel, but got "
            "'infopro'",
        ),
        (
            "uniform:2:man",
            ("--method", "sequential"),
            "aux: must not follow the layer above for the method sequential, where that does not "
            "learn meanwhile, but got 'man'",
        ),
        (
            "uniform:2:barlow",
            ("--set", "views=2", "--set", "batch_size=60", "--set", "accumulate=4"),
            "--set: batch_size must be a multiple of views times accumulate, 8, and more than "
            "that, but got 60",
        ),
        (
            "uniform:2:conv1",
            ("--set", "accumulate=20", "--set", "batch_size=32"),
            "--set: accumulate must be at most 16, half of batch_size, as batch norm cannot learn "
            "from a single image, but got 20",
        ),
        ("uniform:2:conv1", ("--set", "mixup=.inf"), "--set.mixup: Input should be a finite n"),
        ("uniform:1:infoproo", (), "--decoupling: aux: must be one of conv1, "),
        ("uniform:3:conv1:conv2", (), "--decoupling: must be like uniform:4:mlp-sr, but got "),
        (
            "memory-balanced:2:conv1+overlap",
            (),
            "--decoupling: aux: must be plain cuts in balanced blocks, but got 'conv1+overlap'",
        ),
        (
            "uniform:2:man",
            ("--method", "asynchronous"),
            "aux: must not look beyond its boundary for the method asynchronous, but got 'man'",
        ),
    ],
)
def test_teachers_that_a_training_cannot_have(
    decoupling: str,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is written."""
    train = ("train", QUICKSTART, "--directory", "d", "--decoupling", decoupling, *options)
    assert sedona(monkeypatch, *train) == 2
    with starter():  # which the command has prepared for ranks, and which would be left
        pass
    assert capsys.readouterr().err.startswith(f"sedona-nni: {message}")
    assert not Path("d").exists()


@pytest.mark.slow(reason="every command imports PyTorch")
def test_train_by_another_method(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", small_experiment(elsewhere), "--decoupling", "uniform:2:conv1")
    common = ("--set", "epochs=1", "--set", "batch_size=16", "--json", "--device", "cpu")
    sequential = ("--method", "sequential", "--directory", "sequential")
    assert sedona(monkeypatch, *train, *common, *sequential) == 0
    assert json.loads(capsys.readouterr().out)["best_epoch"] == 2  # the second block's first

    options = ("--set", "method.buffer=2", "--set", "method.order=round-robin")
    asynchronous = ("--method", "asynchronous", *options, "--directory", "asynchronous")
    assert sedona(monkeypatch, *train, *common, *asynchronous) == 0
    run = json.loads(Path("asynchronous/run.json").read_text())
    assert run["settings"]["method"] == {
        "name": "asynchronous",
        "buffer": 2,
        "max_draws": None,
        "order": "round-robin",
        "slow_block": None,
        "slowdown": 1.0,
    }
    capsys.readouterr()
    wrong = ("--set", "method.buffer=2", "--directory", "wrong")
    assert sedona(monkeypatch, *train, *common, *wrong) == 2
    assert "--set.method.buffer: unknown field" in capsys.readouterr().err
    twice = ("--method", "sequential", "--set", "method={name: greedy}", "--directory", "wrong")
    assert sedona(monkeypatch, *train, *common, *twice) == 2
    assert "--method: must not be given with --set method" in capsys.readouterr().err
    assert not Path("wrong").exists()


@pytest.mark.slow(reason="every command imports PyTorch")
def test_train_blocks_in_parallel(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", small_experiment(elsewhere), "--decoupling", "uniform:2:conv1")
    common = ("--set", "epochs=1", "--set", "batch_size=16", "--device", "cpu")
    in_parts = ("--set", "accumulate=2", "--set", "checkpoint=layers")
    directory = ("--directory", "parallel")
    assert sedona(monkeypatch, *train, *common, *in_parts, *directory, "--parallel", "blocks") == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^rank (\d), block (\d): a step [\d.]+ MiB, its pro", shown, re.M) == [
        ("0", "1"),
        ("1", "2"),
    ]
    results = json.loads(Path("parallel/results.json").read_text())
    assert f"ideal_speedup: {results['ideal_speedup']:.4f}" in shown
    assert [rank["block"] for rank in results["ranks"]] == [0, 1]

    one = ("--set", "parallel={name: blocks, replicas: [1, 1]}", "--parallel", "no")
    assert sedona(monkeypatch, *train, *common, *one, "--directory", "wrong") == 2
    assert "--parallel: must not be given with --set parallel" in capsys.readouterr().err
    three = ("--set", "parallel.replicas=[1, 1, 1]", "--parallel", "blocks", "--directory", "wrong")
    assert sedona(monkeypatch, *train, *common, *three) == 2
    message = "parallel.replicas: must be a number for each of the 2 blocks, but got [1, 1, 1]"
    assert message in capsys.readouterr().err

    # What the experiment says of processes holds where the command says that there are some
    small = Path("small.yml")
    written = " train: {parallel: {name: blocks, replicas: [1, 1, 1]}, "
    small.write_text(small.read_text().replace(" train: {", written))
    for asked in (("--parallel", "blocks"), ()):
        assert sedona(monkeypatch, *train, *common, *asked, "--directory", "wrong") == 2
        assert message in capsys.readouterr().err
    assert not Path("wrong").exists()


def trained_network(directory: Path) -> DecoupledNetwork:
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    network = build_decoupled(backbone, Decoupling.load(directory / "decoupling.json"))
    network.load_state_dict(load_file(directory / "model.safetensors"))
    return network.eval()


def digits_test_part() -> Iterator[Batch]:
    return evaluation_batches(load_splits(Task(), 0.1).test, 512, "cpu")


@pytest.mark.slow(reason="every command imports PyTorch")
def test_train_the_relaxed_network(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SearchResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        alpha=[(0.0, 0.0)] * 7,
        beta=[[0.0]] * 7,
    )
    found.save(Path("found.json"))
    train = ("train", small_experiment(elsewhere), "--directory", "trained", "--relaxed")
    changes = ("--set", "epochs=1", "--set", "batch_size=16")
    assert sedona(monkeypatch, *train, "--decoupling", "found.json", *changes, "--json") == 0
    trained = json.loads(capsys.readouterr().out)
    assert SearchResult.load(Path("trained", "search-result.json")) == found
    assert sedona(monkeypatch, "test", "trained", "--json") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"]


@pytest.mark.parametrize(("blocks", "cuts"), [("4", [9, 10, 11]), ("0", [9, 10, 11, 12, 14])])
def test_train_a_published_decoupling(
    blocks: str, cuts: list[int], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Decoupling] = []

    def remember(task: Task, decoupling: Decoupling, *rest: object, **more: object) -> object:
        chosen.append(decoupling)
        return {}

    monkeypatch.setattr("sedona_nni.trials.train.run_training", remember)
    experiment = Path(small_experiment(elsewhere))
    experiment.write_text(experiment.read_text().replace("vgg11", "resnet50"))
    train = ("train", str(experiment), "--directory", "d", "--decoupling", RESNET50)
    assert sedona(monkeypatch, *train, "--num-blocks", blocks) == 0
    assert [decoupling.cuts for decoupling in chosen] == [cuts]
