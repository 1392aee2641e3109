"""What the ledger of a comparison of teachers says."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.view import Table, View
from sedona_nni.decouplings.cost import describe
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.memory import peaks_of_step
from sedona_nni.errors import InputError
from sedona_nni.files import read_json
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import TrainTrial, TrainTrialResult
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["show"]

_REFERENCE = "backprop"
_MIB = 2**20
_AT = 4  # blocks, of which memory and time are shown


class _Training(NamedTuple):
    trial: TrainTrial
    result: TrainTrialResult


class _Row(NamedTuple):
    """All trainings of one teacher, or method, with one number of blocks."""

    name: str
    num_blocks: int
    trainings: Sequence[_Training]

    @property
    def accuracies(self) -> list[float]:
        return [
            t.result.test_accuracy for t in self.trainings if t.result.test_accuracy is not None
        ]


def show(ledger: Path, made: Path | None = None) -> View:
    """Return a table: test accuracy for each number of blocks, and at four what it costs.

    A value is the mean over seeds, its spread the standard deviation between them. Memory is the
    peak of a step's tensors, measured, and what of that is held between steps, weights with what
    optimizers and averages keep; time is that of processors, as others may run beside it.

    Args:
        ledger: Of an experiment ``experiments/teachers/compare_*.yml``.
        made: How it was made, as is kept beside it.

    Raises:
        InputError: if nothing in it has been trained by back-propagation.
    """
    rows = _rows(ledger)
    reference = rows.get((_REFERENCE, 1))
    if reference is None:
        raise InputError(f"{ledger}: no training by back-propagation has succeeded yet")
    counts = sorted({k for _, k in rows if k > 1})
    names = list(dict.fromkeys(name for name, _ in rows))
    costs = {key: _costs(row) for key, row in rows.items()}
    whole = costs[_REFERENCE, 1]
    results, shown = [], []
    for name in names:
        present = {k: rows[name, k] for k in (1, *counts) if (name, k) in rows}
        for k, row in present.items():
            results.append(_values(row) | costs[name, k])
        at = _AT if _AT in present else next(iter(present))
        cells = (
            [_accuracy(present[1]), *[""] * (len(counts) - 1)]
            if 1 in present
            else [_accuracy(present[k]) if k in present else "–" for k in counts]
        )
        found = costs[name, at]
        peak, held = found["peak_memory_mib"], found["held_mib"]
        shown.append(
            [
                f"`{name}`",
                *cells,
                f"{peak:.1f} ({peak / whole['peak_memory_mib']:.2f})",
                f"{held:.1f}",
                f"{found['processor_s']:.0f} ({found['processor_s'] / whole['processor_s']:.2f})",
                f"{found['inference_parameters'] / whole['inference_parameters']:.3f}",
            ]
        )
    headings = ["teacher", *(f"K = {k}" for k in counts), "peak, MiB", "held, MiB"]
    headings += ["processor, s", "weights in inference"]
    title = (
        "Test accuracy in %, mean and standard deviation over seeds (how many), rows without cuts "
        f"in the first column; at K = {_AT} the peak of a step, what of it is held between steps, "
        "and time of a core for a training, in brackets over those of back-propagation, and "
        "weights in inference over its"
    )
    head = {} if made is None else {"header": read_json(made)}
    return View({**head, "rows": results}, [Table(title, headings, shown)])


def _rows(ledger: Path) -> dict[tuple[str, int], _Row]:
    found: dict[tuple[str, int], list[_Training]] = defaultdict(list)
    if not ledger.is_file():
        raise InputError.rule("ledger", "must be a file that exists", str(ledger))
    for record in Ledger(ledger):
        trial, result = record.parameters, record.result
        if isinstance(trial, TrainTrial) and isinstance(result, TrainTrialResult):
            assert isinstance(trial.decoupling, Decoupling)
            name = re.sub(r"-k\d+$", "", trial.strategy)
            found[name, trial.decoupling.num_blocks].append(_Training(trial, result))
    return {(name, k): _Row(name, k, trainings) for (name, k), trainings in found.items()}


def _values(row: _Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "num_blocks": row.num_blocks,
        "decouplings": sorted({t.trial.decoupling.in_words() for t in row.trainings}),
        "test_accuracies": row.accuracies,
        "validation_accuracies": [t.result.default for t in row.trainings],
    }


def _accuracy(row: _Row) -> str:
    values = [100 * value for value in row.accuracies]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread} ({len(values)})"


def _costs(row: _Row) -> dict[str, float]:
    """Return what the trainings of a row took, the means over them, and what can be counted."""
    trial = row.trainings[0].trial
    assert isinstance(trial.decoupling, Decoupling)
    with torch.device("meta"):
        backbone = task_backbone(trial.task)
        network = build_decoupled(backbone, trial.decoupling)
    form = step_form(TrainSettings.model_validate(trial.settings))
    measured: dict[str, float] = {}
    for name in ("peak_memory_mib", "processor_s", "macs", "parameters"):
        values = [getattr(each.result, name) for each in row.trainings]
        measured[name] = statistics.fmean(value for value in values if value is not None)
    described = describe(backbone, trial.decoupling, aux_names=[])
    return {
        **measured,
        "held_mib": sum(peaks_of_step(network, backbone.images, form).held) / _MIB,
        "inference_parameters": described["inference"]["parameters"],
        "inference_macs": described["inference"]["macs"],
    }
