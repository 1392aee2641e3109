"""A small table of trainings whose outcome and clock are plain numbers."""

from __future__ import annotations

from typing import Any

from benchmarks.record import header
from benchmarks.tabular.table import Clock, Entry, Table, Training
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = ["BACKPROP_S", "table"]

EPOCHS = 4
BACKPROP_S = 8.0


def training(final: float, early: float) -> Training:
    curve = (early, early, early, final)
    return Training(
        seed=1,
        validation_accuracy=final,
        test_accuracy=final,
        validation_loss=1,
        test_loss=1,
        best_epoch=EPOCHS,
        block_curves=(curve, curve),
        train_losses=(1.0,) * EPOCHS,
        time_s=1,
    )


def table(early: dict[int, float] | None = None) -> Table:
    """Return one where the cut at j ends at (60 + j) %, and a training takes 2 without cuts."""
    compute = Compute(
        backbone="vgg11",
        unit="macs",
        layers=[10] * 8,
        auxiliary=[{"conv1": 5}] * 7,
    )
    common: dict[str, Any] = {
        "parameters": 1,
        "macs": 1,
        "largest_share": 0.5,
        "peak_memory_mib": 1,
    }
    accuracies = {j: 0.60 + j / 100 for j in range(7)}
    entries = [
        Entry(
            cuts=(j,),
            aux=("conv1",),
            trainings=(training(final, (early or accuracies)[j]),),
            **common,
        )
        for j, final in accuracies.items()
    ]
    entries.append(Entry(cuts=(), aux=(), trainings=(training(0.7, 0.7),), **common))
    keys = [
        Decoupling(backbone="vgg11", cuts=list(each.cuts), aux=list(each.aux)).key
        for each in entries
    ]
    seconds = dict.fromkeys(keys[:-1], 2 * BACKPROP_S) | {keys[-1]: BACKPROP_S}
    return Table(
        headers=(header(n=1),),
        task=Task(backbone="vgg11", train_limit=100),
        aux_choices=("conv1",),
        train=TrainSettings(epochs=EPOCHS),
        compute=compute,
        entries=tuple(entries),
        clock=Clock(header=header(n=1), seconds=seconds),
    )
