"""The ledger of a comparison of teachers, sorted."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import TrainTrial, TrainTrialResult

__all__ = ["REFERENCE", "Row", "Training", "rows_of"]

REFERENCE = ("backprop", 1)
"""What the others are beside."""


class Training(NamedTuple):
    """A trial that has ended well."""

    trial: TrainTrial
    result: TrainTrialResult


class Row(NamedTuple):
    """All trainings of one teacher, or method, with one number of blocks."""

    name: str
    num_blocks: int
    trainings: Sequence[Training]

    @property
    def decoupling(self) -> Decoupling:
        """That of its first training; of a search others may have another."""
        decoupling = self.trainings[0].trial.decoupling
        assert isinstance(decoupling, Decoupling)
        return decoupling

    @property
    def accuracies(self) -> list[float]:
        """Of the test images, one per seed."""
        return [
            t.result.test_accuracy for t in self.trainings if t.result.test_accuracy is not None
        ]

    @property
    def validated(self) -> list[float]:
        """Of the validation images, one per seed."""
        return [t.result.default for t in self.trainings]

    @property
    def peak_memory_mib(self) -> float:
        """The measured peak of a step's tensors, the mean over its trainings."""
        peaks = [t.result.peak_memory_mib for t in self.trainings]
        return statistics.fmean(peak for peak in peaks if peak is not None)


def rows_of(ledger: Path) -> dict[tuple[str, int], Row]:
    """Return the rows of a ledger by name and number of blocks, in the order of their beginning.

    Args:
        ledger: Of an experiment ``experiments/teachers/compare_*.yml``.

    Raises:
        InputError: if there is no such file, or nothing has been trained by back-propagation.
    """
    if not ledger.is_file():
        raise InputError.rule("ledger", "must be a file that exists", str(ledger))
    found: dict[tuple[str, int], list[Training]] = defaultdict(list)
    for record in Ledger(ledger):
        trial, result = record.parameters, record.result
        if isinstance(trial, TrainTrial) and isinstance(result, TrainTrialResult):
            assert isinstance(trial.decoupling, Decoupling)
            name = re.sub(r"-k\d+$", "", trial.strategy)
            found[name, trial.decoupling.num_blocks].append(Training(trial, result))
    if REFERENCE not in found:
        raise InputError(f"{ledger}: no training by back-propagation has succeeded yet")
    return {(name, k): Row(name, k, trainings) for (name, k), trainings in found.items()}
