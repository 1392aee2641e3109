"""What ranks come to is what one process comes to, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from safetensors.torch import load_file

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.models import num_layers
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import train
from sedona_nni.training.parallel.launch import train_in_parallel
from sedona_nni.training.parallel.rank import Job
from sedona_nni.training.settings import Parallel, TrainSettings
from sedona_nni.training.weights import MODEL_FILE


@pytest.mark.slow(reason="starts processes")
@pytest.mark.fast_cases(0)
@pytest.mark.parametrize(
    ("backbone", "num_blocks", "aux", "changes"),
    [
        # The head has dropout, all layers batch norm
        pytest.param("vgg11", 2, "conv1", {"mixup": 0.5, "cutmix": 1.0}, id="vgg"),
        pytest.param(
            "resnet18", 4, "predsim", {"optimizer": "adam", "amp": "bf16", "ensemble": 3}, id="bf16"
        ),
        pytest.param(
            "dgl-cnn4",
            4,
            "mlp-sr",
            {"amp": "fp16", "ema_decay": 0.9, "accumulate": 2, "clip_norm": 1.0},
            id="fp16",
        ),
        pytest.param("vgg11", 3, "conv2", {"checkpoint": "layers", "nesterov": True}, id="kept"),
        pytest.param("vgg11", 3, "conv1", {"method": "sequential"}, id="sequential"),
        pytest.param("vgg11", 3, "none", {"method": "ddg"}, id="ddg"),
        pytest.param(
            "vgg11",
            3,
            "none",
            {"method": {"name": "ddg", "replay": True, "beta": 0.5, "update_every": 2}},
            id="replay",
        ),
    ],
)
def test_the_same_to_the_bit(
    backbone: str, num_blocks: int, aux: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    task = Task(backbone=backbone, width_multiplier=0.125, train_limit=150)
    check(task, num_blocks, aux, changes, tmp_path)


@pytest.mark.slow(reason="starts processes")
@pytest.mark.fast_cases(0)
@pytest.mark.parametrize(
    ("model", "aux", "changes"),
    [
        # Tokens cross, and dropout is in every layer; maps, with stochastic depth
        pytest.param("vit", "conv1", {"amp": "bf16", "accumulate": 2, "ema_decay": 0.9}, id="vit"),
        pytest.param("convnext", "linear", {"checkpoint": "layers"}, id="convnext"),
        pytest.param("resnet", "mlp-sr", {"method": "sequential"}, id="resnet"),
        pytest.param("activation_first", "none", {"method": "ddg"}, id="in-place"),
    ],
)
def test_the_same_of_models_that_are_cut(
    model: str,
    aux: str,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(small_models.__file__).parent))
    fields = {"model": f"small_models:{model}", "image_size": 16, "train_limit": 150}
    check(Task.model_validate(fields), 2, aux, changes, tmp_path)


def check(task: Task, num_blocks: int, aux: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Train in one process and in K, and compare."""
    backbone = task.backbone
    layers = num_layers(backbone, task.image_size or 8)
    cuts = uniform_cuts(layers, num_blocks)
    decoupling = Decoupling(backbone=backbone, cuts=cuts, aux=[aux] * len(cuts))
    fields = {"epochs": 2, "batch_size": 32, "lr": 0.05, "lr_min": 0.001, **changes}
    settings = TrainSettings.model_validate(fields)
    splits = load_splits(task, settings.validation_fraction)
    network = initial_network(task, decoupling, settings.seed)
    expected: list[dict[str, float]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = train(network, splits, settings, report=expected.append, directory=tmp_path / "one")
    finally:
        torch.set_num_threads(threads)

    found: list[dict[str, float]] = []
    job = Job(
        task=task,
        decoupling=decoupling,
        settings=settings.model_copy(update={"parallel": Parallel()}),
        devices=["cpu"] * num_blocks,
        threads=1,
        directory=str(tmp_path / "parallel"),
    )
    outcome = train_in_parallel(job, found.append)
    assert found == expected
    assert outcome.trained.test == one.test
    assert outcome.trained.best_epoch == one.best_epoch
    ours, theirs = (load_file(tmp_path / place / MODEL_FILE) for place in ("parallel", "one"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [rank.block for rank in outcome.ranks] == [*range(num_blocks)]
    assert all(rank.sent_bytes > 0 for rank in outcome.ranks[:-1])
