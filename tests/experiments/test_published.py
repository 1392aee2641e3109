"""The published evaluation: an experiment for every row, and the decouplings of the release."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sedona_nni.data.batches import MemoryImages
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.cost import block_costs, summarise_blocks
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.experiment import Experiment, read_experiment
from sedona_nni.strategies.hyperparameters import read_search_spaces
from sedona_nni.strategies.plan import decoupling_of
from sedona_nni.strategies.published import SETTINGS, with_published
from sedona_nni.strategies.settings.tuned import (
    TunedSettings,
    contenders,
    plan_of,
    read_given,
    train_settings,
)
from sedona_nni.teachers.auxiliary import similarity_matrix
from sedona_nni.training.evaluation import evaluate
from sedona_nni.training.methods import build_method

FOLDER = Path(__file__).parents[2] / "experiments" / "published"
FILES = sorted(FOLDER.glob("*.yml"))
NETS = ("vgg19", "resnet50", "resnet101", "resnet152")
TABLES = {
    **{(dataset, net): 4 for dataset in ("cifar10", "tiny-imagenet") for net in NETS},
    ("imagenet", "resnet101"): 2,
    ("imagenet", "resnet152"): 4,
}
METHODS = {"sedona", "uniform", "predsim", "backprop"}
# Number of classes, image size, training images as `data.sets` leaves them, published steps
DATA = {
    "cifar10": (10, 32, 45_000, 64_000),
    "tiny-imagenet": (200, 64, 90_000, 30_000),
    "imagenet": (1000, 224, 1_229_921, 600_000),
}


@cache
def read(path: Path) -> Experiment:
    return read_experiment(path)


def settings_of(path: Path) -> TunedSettings:
    settings = read(path).settings
    assert isinstance(settings, TunedSettings)
    return settings


@pytest.mark.slow(reason="reads every experiment")
def test_every_row_has_its_experiment() -> None:
    """10 tables of 4 rows: 40 trainings."""
    rows = set()
    for path in FILES:
        settings = settings_of(path)
        task, (blocks,) = settings.training.task, settings.block_counts
        assert path.stem == f"{task.dataset.replace('-', '_')}_{task.backbone}"
        assert settings.num_trials == 4
        rows |= {(task.dataset, task.backbone, blocks, each.name) for each in contenders(settings)}
    assert len(FILES) == 10
    assert rows == {
        (dataset, net, blocks, method)
        for (dataset, net), blocks in TABLES.items()
        for method in METHODS
    }
    assert len(rows) == 40


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_can_be_built(path: Path) -> None:
    """As the tuner hands it out, with the published decoupling and sizes."""
    settings = settings_of(path)
    task = settings.training.task
    num_classes, size, *_ = DATA[task.dataset]
    plan = plan_of(settings, read(path).folder)
    published = SearchResult.load(FOLDER / f"{task.backbone}.json")
    for contender in plan.contenders:
        decoupling = decoupling_of(plan, contender, {})
        assert decoupling is not None
        with torch.device("meta"):
            backbone = build_backbone(
                task.backbone,
                num_classes=num_classes,
                image_size=size,
                width_multiplier=task.width_multiplier,
            )
            network = build_decoupled(backbone, decoupling)
        expected = 1 if contender.name == "backprop" else settings.block_counts[0]
        assert len(network.blocks) == expected
        if contender.name == "sedona":
            assert decoupling == discretise(published, expected)
        else:
            aux = {"uniform": "mlp-sr", "predsim": "predsim", "backprop": None}[contender.name]
            assert set(decoupling.aux) <= {aux}


@pytest.mark.parametrize("dataset", sorted(SETTINGS))
def test_settings_are_the_published_ones(dataset: str) -> None:
    """Steps, batches, widths and precision of the release's README."""
    given = {"task": {"backbone": "vgg19"}, "decoupling": Decoupling(backbone="vgg19")}
    settings = read_given({"published": dataset, **given}, FOLDER)
    _, _, images, steps = DATA[dataset]
    train = settings.training.train
    per_epoch = -(-images // train.batch_size)
    assert train.epochs * per_epoch == pytest.approx(steps, rel=0.005)
    assert settings.training.task.dataset == dataset
    small = dataset == "cifar10"
    assert train.batch_size == (128 if small else 256)
    assert settings.training.task.width_multiplier == (1 if small else 4)
    assert train.amp == ("no" if small else "fp16")
    assert (train.optimizer, train.momentum, train.schedule) == ("sgd", 0.9, "cosine")
    assert (train.lr, train.lr_min, train.weight_decay) == (0.1, 0.001, 1e-4)

    predsim = train_settings(settings, "predsim")
    assert (predsim.epochs, predsim.amp) == (train.epochs, train.amp)
    assert predsim.label_smoothing == 0 < train.label_smoothing
    if small:
        assert predsim == train.model_copy(update={"label_smoothing": 0.0})
    else:
        assert (predsim.optimizer, predsim.classes_per_batch) == ("adam", 40)
        assert predsim.class_limited_epochs is not None
        begins = predsim.class_limited_epochs * images / predsim.batch_size
        half = 15_000 if dataset == "tiny-imagenet" else steps / 2
        assert 0 <= begins - half < per_epoch  # the first epoch that begins after that many steps


@pytest.mark.parametrize("published", [None, *SETTINGS])
def test_all_blocks_of_predsim_learn_from_plain_labels(published: str | None) -> None:
    """The first losses of a training, and the loss that it reports, against the formulas."""
    given: dict[str, Any] = {"decoupling": "backprop", "compare": ["predsim"], "num_blocks": []}
    task = {"backbone": "vgg11", "dataset": "digits"}
    settings = read_given({"published": published, "task": task, **given}, FOLDER)
    train = train_settings(settings, "predsim").model_copy(update={"amp": "no"})
    smoothed = train_settings(settings, "uniform").label_smoothing
    assert smoothed == 0.1
    space = {"label_smoothing": {"_type": "choice", "_value": [0.05, 0.1]}}
    tuned = read_search_spaces(space, settings, plan_of(settings, FOLDER))
    assert (list(tuned["predsim"]), list(tuned["given"])) == ([], ["label_smoothing"])
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.0625)
    decoupling = Decoupling(backbone="vgg11", cuts=[3], aux=["predsim"])
    network = build_decoupled(backbone, decoupling)
    network.blocks[-1].classifier.eval()  # no dropout
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 10
    lower, head = network.blocks

    features = lower(images)
    predictor = lower.classifier
    similar = similarity_matrix(predictor.similarity(features))
    wanted = similarity_matrix(F.one_hot(labels, 10).float())
    first = 0.01 * F.cross_entropy(predictor(features), labels) + 0.99 * F.mse_loss(similar, wanted)
    last = F.cross_entropy(head.classifier(head(features)), labels)

    method = build_method(network, train, None, 10)
    losses = method.step(images, labels)
    assert losses[0].item() == pytest.approx(first.item(), rel=1e-5)
    assert losses[1].item() == pytest.approx(last.item(), rel=1e-5)
    dataset = MemoryImages(torch.zeros(4, 1, 32, 32).byte(), np.arange(4), (0.5,), (0.5,))
    logits = network.eval()(torch.full((4, 3, 32, 32), -1.0)).detach()
    reported = evaluate(network, dataset, train, "cpu").loss
    assert reported == pytest.approx(float(F.cross_entropy(logits, torch.arange(4))), rel=1e-5)


def test_given_settings_replace_published_ones() -> None:
    given = {
        "published": "tiny-imagenet",
        "task": {"backbone": "vgg11"},
        "train": {"lr": 0.05},
        "train_for": {"predsim": {"classes_per_batch": 20}},
        "compare": ["backprop"],
    }
    merged = with_published("tiny-imagenet", given)
    assert merged["task"] == {**SETTINGS["tiny-imagenet"]["task"], "backbone": "vgg11"}
    assert merged["train"] == {**SETTINGS["tiny-imagenet"]["train"], "lr": 0.05}
    predsim = SETTINGS["tiny-imagenet"]["train_for"]["predsim"]
    assert merged["train_for"] == {"predsim": {**predsim, "classes_per_batch": 20}}
    assert merged["compare"] == ["backprop"]
    assert SETTINGS["tiny-imagenet"]["task"] == {"dataset": "tiny-imagenet", "width_multiplier": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epoch": 1}}, "tuner.classArgs.train.epoch: unknown field"),
        ({"train": 3}, "tuner.classArgs.train: "),
        ({"published": "svhn"}, "tuner.classArgs.published: "),
    ],
)
def test_wrong_changes_are_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {
        "published": "cifar10",
        "task": {"backbone": "vgg19"},
        "decoupling": {"backbone": "vgg19"},
    }
    with pytest.raises(InputError) as caught:
        read_given({**given, **changes}, tmp_path)
    assert str(caught.value).startswith(message)


@pytest.mark.slow(reason="every published network is built")
def test_the_overview_is_what_the_files_hold() -> None:
    """Cuts, auxiliary networks and ideal speed-ups in experiments/published/README.md."""
    text = (FOLDER / "README.md").read_text()
    for net in NETS:
        published = SearchResult.load(FOLDER / f"{net}.json")
        with torch.device("meta"):
            backbone = build_backbone(net, num_classes=10)
        for blocks in (*range(2, 9), 0):
            decoupling = discretise(published, blocks)
            cuts = ", ".join(
                f"{cut}:{aux.removeprefix('conv')}"
                for cut, aux in zip(decoupling.cuts, decoupling.aux, strict=True)
            )
            gain = summarise_blocks(block_costs(backbone, decoupling))["ideal_speedup"]
            assert f"| {net} | {blocks} | {cuts} | {gain:.2f} |\n" in text
