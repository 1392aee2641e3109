"""Asynchronous learning with a process for each block: nobody waits for a slow one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.task import Task
from sedona_nni.training.parallel.launch import train_in_parallel
from sedona_nni.training.parallel.rank import Job
from sedona_nni.training.settings import TrainSettings

TASK = Task(backbone="vgg11", width_multiplier=0.25, train_limit=200)


SLEEPY = """
import time
from sedona_nni import AuxiliaryNetwork, register_auxiliary
from torch import nn

@register_auxiliary("sleepy")
class Sleepy(AuxiliaryNetwork):
    def __init__(self, context):
        super().__init__()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(context.shape.channels, context.num_classes),
        )

    def forward(self, features):
        time.sleep(0.3 * self.training)
        return self.head(features)
"""


def trained(
    cuts: list[int], aux: list[str], directory: Path, **options: Any
) -> list[dict[str, float]]:
    """Train for an epoch of the slowest block; return what every epoch reported."""
    plugin = directory / "sleepy.py"
    plugin.write_text(SLEEPY)
    given = {"name": "asynchronous", **options}
    settings = TrainSettings.model_validate(
        {"epochs": 1, "batch_size": 16, "lr": 0.02, "method": given, "parallel": "blocks"}
    )
    job = Job(
        task=TASK,
        decoupling=Decoupling(backbone="vgg11", cuts=cuts, aux=aux),
        settings=settings,
        devices=["cpu"] * (len(cuts) + 1),
        threads=1,
        directory=str(directory / "trained"),
        plugins=[str(plugin)],
    )
    history: list[dict[str, float]] = []
    train_in_parallel(job, history.append)
    return history


@pytest.mark.slow(reason="starts processes")
def test_one_that_sleeps_holds_up_nobody(tmp_path: Path) -> None:
    """The second of three blocks needs 0.3 s for a step, the others a hundredth of that.

    The third begins when it has heard of the second, and then learns from that again and again.
    """
    history = trained([2, 4], ["conv1", "sleepy"], tmp_path, buffer=2)
    first, last = history[0], history[-1]
    assert first["block_1_epochs"] == 1.0
    assert first["block_2_epochs"] < 0.7
    assert len(history) > 1  # until the slow one is through
    assert last["block_2_epochs"] == last["block_3_epochs"] == 1.0
    assert all(math.isfinite(numbers["loss"]) for numbers in history)


@pytest.mark.slow(reason="starts processes")
def test_a_block_that_may_draw_once_is_not_ahead(tmp_path: Path) -> None:
    """The first block sleeps, and the second has learned from each of its batches once at most."""
    history = trained([2], ["sleepy"], tmp_path, max_draws=1)
    assert [numbers["epoch"] for numbers in history] == [*range(1, len(history) + 1)]
    for numbers in history:
        assert numbers["block_2_epochs"] <= numbers["epoch"]
