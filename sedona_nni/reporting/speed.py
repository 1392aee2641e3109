"""Measured speed-ups: seconds per image of back-propagation over those of another training.

Both trainings are of the same experiment and on as many processors: K blocks on c cores in all, a
core for each process or more, stand against one process whose threads keep c cores busy. So this is
what a user gains by the blocks, and less than an ideal speed-up can be, which compares K devices
with one. Each GPU is a process's own: there K of them stand against one.

Seconds are those of the whole training, with its validation and checkpoints. Trials that ran at the
same time on the same cores slow each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from pydantic import ValidationError

from sedona_nni.decouplings.compute import Compute
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.trial import (
    RepeatedTrial,
    RepeatedTrialResult,
    TrainTrial,
    TrainTrialResult,
)

__all__ = ["ideal_speedup", "measured_speedups"]


@dataclass(frozen=True)
class _Terms:
    """What has to be equal for seconds per image to be compared."""

    device: str
    cores: float
    batch_size: int
    images_per_epoch: float


def measured_speedups(records: Iterable[TrialRecord]) -> dict[str, float]:
    """Return the measured speed-ups of the trainings of an experiment, by their keys.

    Of several trainings by back-propagation on the same terms the median counts. A training has
    none if there is no such training, or the ledger does not say so much.

    Args:
        records: All trials of the experiment.
    """
    paces = {}
    wholes: dict[_Terms, list[float]] = {}
    for record in records:
        if (found := _pace(record)) is not None:
            paces[record.key] = found
            assert isinstance(record.parameters, TrainTrial | RepeatedTrial)
            if record.parameters.decoupling.num_blocks == 1:
                terms, seconds = found
                wholes.setdefault(terms, []).append(seconds)
    return {
        key: median(wholes[terms]) / seconds
        for key, (terms, seconds) in paces.items()
        if terms in wholes
    }


def _pace(record: TrialRecord) -> tuple[_Terms, float] | None:
    """Return on what terms a training took how many seconds per image."""
    trial, result = record.parameters, record.result
    if not isinstance(trial, TrainTrial | RepeatedTrial):
        return None
    if not isinstance(result, TrainTrialResult | RepeatedTrialResult):
        return None
    epochs, batch_size = (trial.settings.get(name) for name in ("epochs", "batch_size"))
    if result.device is None or not (result.cores and result.images and result.time_s):
        return None
    if not (epochs and batch_size):
        return None
    # Where blocks learn one after the other, their images count once for each
    terms = _Terms(result.device, result.cores, batch_size, result.images / epochs)
    return terms, result.time_s / result.images


def ideal_speedup(record: TrialRecord) -> float | None:
    """Return the ideal speed-up of a training's decoupling, see `Compute.largest_share`.

    None where the ledger does not have what it follows from.

    Raises:
        InputError: if what it has makes no sense.
    """
    trial, result = record.parameters, record.result
    if not isinstance(trial, TrainTrial | RepeatedTrial):
        return None
    if isinstance(result, TrainTrialResult | RepeatedTrialResult) and result.compute is not None:
        try:
            compute = Compute.model_validate(result.compute)
        except ValidationError as error:
            raise InputError.from_validation(error, f"{record.key}.compute") from None
        return 1 / compute.largest_share(trial.decoupling)
    return trial.ideal_speedup if isinstance(trial, TrainTrial) else None
