"""From the ledger of an experiment to a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch

from benchmarks.record import Header
from benchmarks.tabular.table import Entry, Table, Training
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import RepeatedTrial, RepeatedTrialResult, SeedResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["collect", "joined"]

_ALIKE = ("task", "aux_choices", "train", "compute")  # of tables that can be joined
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
    found: dict[Decoupling, tuple[RepeatedTrial, RepeatedTrialResult]] = {}
    for ledger in ledgers:
        for record in ledger:
            trial, result = record.parameters, record.result
            if isinstance(trial, RepeatedTrial) and isinstance(result, RepeatedTrialResult):
                found.setdefault(trial.decoupling, (trial, result))
    if not found:
        raise InputError(f"{ledgers[0].path}: no training has succeeded yet")
    first, _ = next(iter(found.values()))
    for trial, _ in found.values():
        if (trial.task, trial.train) != (first.task, first.train):
            raise InputError(f"trial {trial.key}: must have the task and training of the others")
    task = first.task
    compute = _compute(task, aux_choices)
    entries = [_entry(trial.decoupling, result, compute) for trial, result in found.values()]
    return Table(
        headers=(header,),
        task=task,
        aux_choices=aux_choices,
        train=TrainSettings.model_validate(first.train),
        compute=compute,
        entries=_sorted(entries),
    )


def joined(before: Table, after: Table) -> Table:
    """Return the entries of both tables, of a decoupling the trainings with all seeds.

    A run may have begun at another seed. Where both have a seed, its training of before stays, and
    what does not depend on the seed, such as the memory, is of before. What was collected of a run
    while it grew has one header, the latest.

    Raises:
        InputError: if they are not of the same task, training and space.
    """
    train = after.train.model_copy(update={"seed": before.train.seed})
    after = after.model_copy(update={"train": train})
    for field in _ALIKE:
        if getattr(before, field) != getattr(after, field):
            raise InputError(f"--add: the tables must have the same {field}")
    entries = {(entry.cuts, entry.aux): entry for entry in before.entries}
    for entry in after.entries:
        known = entries.get((entry.cuts, entry.aux))
        entries[entry.cuts, entry.aux] = entry if known is None else _with_more(known, entry)
    return Table(
        headers=tuple(
            {_run(header): header for header in (*before.headers, *after.headers)}.values()
        ),
        entries=_sorted(entries.values()),
        clock=before.clock,
        **{name: getattr(before, name) for name in _ALIKE},
    )


def _run(header: Header) -> tuple[str, str | None, str]:
    return header.command, header.commit, header.machine.cpu


def _with_more(known: Entry, entry: Entry) -> Entry:
    trainings = {training.seed: training for training in (*entry.trainings, *known.trainings)}
    ordered = tuple(training for _, training in sorted(trainings.items()))
    return known.model_copy(update={"trainings": ordered})


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (len(entry.cuts), entry.cuts, entry.aux)))


def _compute(task: Task, aux_choices: tuple[str, ...]) -> Compute:
    with torch.device("meta"):
        return compute_in_macs(task_backbone(task), aux_choices)


def _entry(decoupling: Decoupling, result: RepeatedTrialResult, compute: Compute) -> Entry:
    peak = result.peak_memory_mib
    assert result.parameters is not None
    assert result.macs is not None
    assert peak is not None
    return Entry(
        cuts=tuple(decoupling.cuts),
        aux=tuple(decoupling.aux),
        parameters=round(result.parameters),
        macs=round(result.macs),
        largest_share=round(compute.largest_share(decoupling), _DIGITS),
        peak_memory_mib=round(peak, 2),
        trainings=tuple(_training(run) for run in result.runs),
    )


def _rounded(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in values if value is not None)


def _of_blocks(run: SeedResult, name: str) -> list[tuple[float, ...]]:
    """Return what was reported of every block after each epoch."""
    blocks = itertools.takewhile(
        run.history.__contains__, (f"block_{number}_{name}" for number in itertools.count(1))
    )
    return [_rounded(run.history[block]) for block in blocks]


def _training(run: SeedResult) -> Training:
    numbers = {
        "validation_accuracy": run.default,
        "test_accuracy": run.test_accuracy,
        "validation_loss": run.loss,
        "test_loss": run.test_loss,
    }
    rounded = {name: round(value, _DIGITS) for name, value in numbers.items() if value is not None}
    return Training.model_validate(
        {
            "seed": run.seed,
            **rounded,
            "best_epoch": run.best_epoch,
            "block_curves": _of_blocks(run, "accuracy"),
            "train_losses": _rounded(run.history["train_loss"]),
            "block_losses": _of_blocks(run, "train_loss"),
            "time_s": None if run.time_s is None else round(run.time_s, 1),
            "processor_s": None if run.processor_s is None else round(run.processor_s, 1),
        }
    )
