"""What a training step takes with each teacher, beside back-propagation, in one run.

A ledger that grew on several machines does not tell: each of its times is another machine's. Here
all that it compares take turns in one process, on one thread.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.teachers.ledger import REFERENCE, Row, rows_of
from benchmarks.view import Table, View
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.models.placement import place
from sedona_nni.progress import tracked
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import training_stream
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings

__all__ = ["step_times"]


def step_times(ledger: Path, turns: int, steps: int) -> View:
    """Measure the steps of every row of a ledger.

    A step is everything from the batch to the updates of all blocks, in one process. First all take
    a turn that does not count, in which delayed gradients arrive.

    Args:
        ledger: Of an experiment ``experiments/teachers/compare_*.yml``.
        turns: Of each that count.
        steps: In a turn.

    Returns:
        Of each row ``processor_s``, of a step, the mean of each turn, and ``ratio``, the median
        over turns of that to back-propagation's in the same turn.

    Raises:
        InputError: if nothing in the ledger has been trained by back-propagation, or the data set
            is missing.
    """
    rows = rows_of(ledger)
    first = rows[REFERENCE].trainings[0].trial  # all have its task, and its part for validation
    splits = load_splits(first.task, TrainSettings(**first.settings).validation_fraction)
    taken: dict[tuple[str, int], list[float]] = {key: [] for key in rows}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # As delayed gradients have not come yet, the first steps change the rate and no weights
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        step_of = {key: _step(row, splits) for key, row in rows.items()}
        for turn in tracked(range(-1, turns), "turns", done=0, total=turns + 1):
            for key, step in step_of.items():
                started = time.process_time()
                for _ in range(steps):
                    step()
                if turn >= 0:
                    taken[key].append((time.process_time() - started) / steps)
    whole = taken[REFERENCE]
    found = [
        {
            "name": name,
            "num_blocks": num_blocks,
            "processor_s": values,
            "ratio": statistics.median(v / w for v, w in zip(values, whole, strict=True)),
        }
        for (name, num_blocks), values in taken.items()
    ]
    return View({"steps": found}, [_table(found)])


def _step(row: Row, splits: Splits) -> Callable[[], object]:
    """Return what trains on one batch, the same again and again."""
    trial = row.trainings[0].trial
    settings = TrainSettings.model_validate(trial.settings)
    network = initial_network(trial.task, row.decoupling, settings.seed)
    place(network, "cpu")
    network.train()
    stream = training_stream(splits, settings, "cpu")
    method = build_method(network, settings, splits, stream.batches_per_epoch)
    method.start_epoch(1)
    images, labels = next(stream.iterate())
    return lambda: method.step(images, labels)


def _table(found: list[dict[str, Any]]) -> Table:
    counts = sorted({row["num_blocks"] for row in found})
    cells: dict[str, dict[int, str]] = {}
    for row in found:
        shown = f"{1e3 * statistics.median(row['processor_s']):.1f} ({row['ratio']:.2f})"
        cells.setdefault(row["name"], {})[row["num_blocks"]] = shown
    return Table(
        "Processor time of a training step, ms, the median over turns, and in brackets over that "
        "of back-propagation in the same turn",
        ["teacher", *("no cut" if k == 1 else f"K = {k}" for k in counts)],
        [[f"`{name}`", *(by_k.get(k, "") for k in counts)] for name, by_k in cells.items()],
    )
