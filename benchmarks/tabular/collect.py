"""From the ledger of an experiment to a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from benchmarks.record import Header
from benchmarks.tabular.table import Entry, Table, Training
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger, TrialRecord
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["collect"]

_DIGITS = 5  # more than one test image in 10,000


def collect(ledgers: Sequence[Ledger], header: Header, aux_choices: tuple[str, ...]) -> Table:
    """Make a table of all trainings that succeeded.

    Args:
        ledgers: Of an experiment of `strategies.grid.GridTuner`; or of several runs of it, of which
            the first that has trained a decoupling counts.
        header: How the experiment was made.
        aux_choices: Auxiliary networks of the space.

    Raises:
        InputError: if there is none, or not all have the same task and settings.
    """
    found: dict[Decoupling, TrialRecord] = {}
    for ledger in ledgers:
        for record in ledger:
            if record.status == "succeeded":
                found.setdefault(_decoupling(record), record)
    if not found:
        raise InputError(f"{ledgers[0].path}: no training has succeeded yet")
    common = {name: next(iter(found.values())).parameters[name] for name in ("task", "train")}
    for record in found.values():
        if any(record.parameters[name] != value for name, value in common.items()):
            raise InputError(f"trial {record.key}: must have the task and training of the others")
    task = Task.model_validate(common["task"])
    compute = _compute(task, aux_choices)
    entries = tuple(_entry(record, compute) for record in found.values())
    return Table(
        header=header,
        task=task,
        aux_choices=aux_choices,
        train=TrainSettings.model_validate(common["train"]),
        compute=compute,
        entries=tuple(sorted(entries, key=lambda entry: (len(entry.cuts), entry.cuts, entry.aux))),
    )


def _compute(task: Task, aux_choices: tuple[str, ...]) -> Compute:
    with torch.device("meta"):
        return compute_in_macs(task_backbone(task), aux_choices)


def _decoupling(record: TrialRecord) -> Decoupling:
    return Decoupling.model_validate(record.parameters["decoupling"])


def _entry(record: TrialRecord, compute: Compute) -> Entry:
    decoupling = _decoupling(record)
    result = record.result or {}
    return Entry(
        cuts=tuple(decoupling.cuts),
        aux=tuple(decoupling.aux),
        parameters=round(result["parameters"]),
        macs=round(result["macs"]),
        largest_share=round(compute.largest_share(decoupling), _DIGITS),
        peak_memory_mib=round(result["peak_memory_mib"], 2),
        trainings=tuple(_training(run) for run in result["runs"]),
    )


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in values)


def _training(run: dict[str, Any]) -> Training:
    history = run["history"]
    blocks = itertools.takewhile(
        history.__contains__, (f"block_{number}_accuracy" for number in itertools.count(1))
    )
    return Training(
        seed=run["seed"],
        validation_accuracy=round(run["default"], _DIGITS),
        test_accuracy=round(run["test_accuracy"], _DIGITS),
        validation_loss=round(run["loss"], _DIGITS),
        test_loss=round(run["test_loss"], _DIGITS),
        best_epoch=run["best_epoch"],
        block_curves=tuple(_rounded(history[block]) for block in blocks),
        train_losses=_rounded(history["train_loss"]),
        time_s=round(run["time_s"], 1),
    )
