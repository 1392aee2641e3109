"""DGL's published commands: an experiment for each, with networks and settings as published."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.models import build_backbone
from sedona_nni.strategies.experiment import Experiment, read_experiment
from sedona_nni.strategies.plan import decoupling_of
from sedona_nni.strategies.settings.tuned import (
    TunedSettings,
    contenders,
    plan_of,
    train_settings,
)
from sedona_nni.training.methods.asynchronous import AsynchronousSettings
from sedona_nni.trials.train import run_training

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "dgl"
FILES = sorted(FOLDER.glob("*.yml"))
CIFAR = {"num_classes": 10, "image_size": 32}
IMAGENET = {"num_classes": 1000, "image_size": 224}
# Number of blocks of every row, by file
BLOCKS = {
    "auxiliary_study": {"mlp-sr": 6, "mlp": 6, "cnn": 6},
    "block_sizes": {
        **{"one-layer": 6, "two-layers": 3, "three-layers": 2},
        **{"four-layers": 2, "backprop": 1},
    },
    "learning_curves": {"parallel": 4, "sequential": 4},
    "asynchronous": dict.fromkeys(("buffer-1", "buffer-30", "slowed", "in-turn", "reused"), 6),
    "dni": {"dni": 4, "cdni": 4, "dni-sgd": 4, "dgl": 3, "backprop": 1},
    "ddg": {"dgl": 2, "ddg": 2, "backprop": 1},
    "imagenet_vgg13": {"k10": 10, "k4": 4},
    "imagenet_vgg19": {"k4": 4, "k2": 2},
    "imagenet_resnet152": {"k2": 2, "backprop": 1},
    "imagenet_vgg13_backprop": {"baseline": 1},
    "imagenet_vgg19_backprop": {"baseline": 1},
    "digits": {
        **dict.fromkeys(("dgl", "sequential", "asynchronous", "dni", "cdni", "ddg"), 4),
        "backprop": 1,
    },
}
# The commands that the READMEs of the release name, but for the number of workers
HALF = "--half --dynamic-loss-scale"
PUBLISHED = {
    "dni_comparisons": [
        "cifar_cnn_dni.py",
        "cifar_cnn_dni.py --dni",
        "cifar_cnn_dni.py --dni --context",
        "cifar_dgl.py",
    ],
    "imagenet_dgl": [
        f"imagenet_dgl.py IMAGENET_DIR --arch vgg13 --block_size 1 {HALF}",
        f"imagenet_dgl.py IMAGENET_DIR --arch vgg13 --block_size 3 {HALF}",
        f"imagenet_dgl.py IMAGENET_DIR --arch vgg19 --block_size 4 {HALF}",
        f"imagenet_dgl.py IMAGENET_DIR --arch vgg19 --block_size 8 {HALF}",
        f"imagenet_dgl.py IMAGENET_DIR --arch resnet152 {HALF}",
        f"imagenet.py IMAGENET_DIR --arch resnet152 {HALF}",
        f"imagenet.py IMAGENET_DIR --arch vgg13_bn {HALF}",
        f"imagenet.py IMAGENET_DIR --arch vgg19_bn {HALF}",
    ],
    "auxiliary_nets_study": [
        *(f"cifar_dgl.py --type_aux {kind}" for kind in ("mlp-sr", "mlp", "cnn"))
    ],
    "learning_curves": ["cifar_dgl.py --epochs 50", "cifar_sequential_greedy.py --epochs 50"],
    "buffer_experiments": ["cifar_buffer.py --buffer 30 --noise 0.1 --layer_noise 3 --seed 0"],
    "ddg_comparison": ["cifar_dgl.py"],
}


@cache
def read(name: str) -> Experiment:
    return read_experiment(FOLDER / f"{name}.yml")


def settings_of(name: str) -> TunedSettings:
    settings = read(name).settings
    assert isinstance(settings, TunedSettings)
    return settings


def networks(name: str, **shape: int) -> dict[str, DecoupledNetwork]:
    """Build what the tuner would hand out, row by row."""
    settings = settings_of(name)
    task = settings.training.task
    plan = plan_of(settings, read(name).folder)
    built = {}
    for contender in plan.contenders:
        decoupling = decoupling_of(plan, contender, {})
        assert decoupling is not None
        train_settings(settings, contender.strategy).check_aux(decoupling.aux)
        with torch.device("meta"):
            backbone = build_backbone(
                task.backbone, width_multiplier=task.width_multiplier, **shape
            )
            built[contender.name] = build_decoupled(backbone, decoupling)
    return built


@pytest.fixture(scope="module")
def maker() -> Any:
    """The script docs/make_reference.py."""
    spec = importlib.util.spec_from_file_location("maker", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_published_command_has_a_row(maker: Any) -> None:
    assert [path.stem for path in FILES] == sorted(BLOCKS)
    found: dict[str, list[str]] = {}
    for folder, command, file, row in maker.counterparts():
        found.setdefault(folder, []).append(command.removeprefix("python "))
        assert row in BLOCKS[file.removesuffix(".yml")]
    assert set(found) == set(PUBLISHED)
    for folder, commands in PUBLISHED.items():
        assert set(commands) <= set(found[folder])
    assert sum(map(len, found.values())) == 29
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in FILES)


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_row_can_be_built(name: str) -> None:
    """With every layer of the backbone in some block."""
    shape = IMAGENET if name.startswith("imagenet") else CIFAR
    built = networks(name, **shape)
    assert {row: len(network.blocks) for row, network in built.items()} == BLOCKS[name]
    sizes = {
        sum(count_parameters(block.layers) for block in network.blocks)
        for network in built.values()
    }
    assert len(sizes) == 1


# epochs, batch size, rate, decay, milestones and factor, by file
SCHEDULES = {
    **dict.fromkeys(
        ("auxiliary_study", "block_sizes", "learning_curves", "asynchronous"),
        (50, 128, 0.1, 5e-4, [15, 30, 45], 0.2),
    ),
    "ddg": (300, 128, 0.01, 5e-4, [149, 224], 0.1),
    **dict.fromkeys(
        (name for name in BLOCKS if name.startswith("imagenet")),
        (50, 256, 0.1, 1e-4, [10, 20, 30, 40], 0.1),
    ),
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_settings_are_the_published_ones(name: str) -> None:
    settings = settings_of(name)
    for contender in contenders(settings):
        train = train_settings(settings, contender.strategy)
        assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == SCHEDULES[name][:4]
        assert (train.milestones, train.lr_decay) == SCHEDULES[name][4:]
        assert (train.optimizer, train.momentum, train.schedule) == ("sgd", 0.9, "multistep")
        assert train.label_smoothing == 0
        assert train.amp == ("fp16" if name.startswith("imagenet") else "no")


def test_settings_of_the_comparison_with_dni() -> None:
    settings = settings_of("dni")
    trains = {each.name: train_settings(settings, each.strategy) for each in contenders(settings)}
    methods = {name: train.method.name for name, train in trains.items()}
    assert methods == {
        "dni": "dni",
        "cdni": "cdni",
        "dni-sgd": "dni",
        "dgl": "greedy",
        "backprop": "greedy",
    }
    for name, train in trains.items():
        assert train.lr == train.lr_min == (0.01 if name == "dni-sgd" else 3e-5)  # no schedule
        assert train.optimizer == ("sgd" if name == "dni-sgd" else "adam")
        assert train.weight_decay == (1e-5 if name == "dni-sgd" else 0)
        assert (train.batch_size, train.epochs) == (256, 1500 if name == "dgl" else 2000)


def test_options_of_asynchronous_training() -> None:
    """Noise p slows by 1 / (1 - p); reuse r allows r - 1 draws; a buffer of 0 holds one batch."""
    settings = settings_of("asynchronous")
    expected = {
        "buffer-1": AsynchronousSettings(order="round-robin"),
        "buffer-30": AsynchronousSettings(buffer=30),
        "slowed": AsynchronousSettings(buffer=30, slow_block=3 + 1, slowdown=1.1111111),
        "in-turn": AsynchronousSettings(buffer=30, order="round-robin"),
        "reused": AsynchronousSettings(buffer=30, max_draws=4 - 1),
    }
    for contender in contenders(settings):
        train = train_settings(settings, contender.strategy)
        assert train.method == expected[contender.name]
        assert (train.ensemble, train.ensemble_vote) == (6, "logits")


@pytest.mark.slow(reason="a training each")
def test_every_way_of_training_runs_on_digits() -> None:
    """As the small experiment has it, with one epoch of fewer images."""
    settings = settings_of("digits")
    small = {"train_limit": 100, "width_multiplier": 0.0625}
    task = settings.training.task.model_copy(update=small)
    plan = plan_of(settings, read("digits").folder)
    for contender in plan.contenders:
        train = train_settings(settings, contender.strategy).model_copy(update={"epochs": 1})
        decoupling = decoupling_of(plan, contender, {})
        assert decoupling is not None
        result = run_training(task, decoupling, train)
        assert 0 <= result["test_accuracy"] <= 1
