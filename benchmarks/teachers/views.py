"""What the ledger of a comparison of teachers says."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.teachers.ledger import REFERENCE, Row, rows_of
from benchmarks.view import Table, View
from sedona_nni.decouplings.cost import Cost, block_costs, describe
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.memory import peaks_of_step
from sedona_nni.files import read_json
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["AT", "show"]

_MIB = 2**20
AT = 4  # blocks, of which memory and steps are shown


def show(ledger: Path, made: Path | None = None, times: Path | None = None) -> View:
    """Return a table: test accuracy for each number of blocks, and at four what it costs.

    A value is the mean over seeds, its spread the standard deviation between them. Memory is the
    peak of a step's tensors, measured, and what of that is held between steps, weights with what
    optimizers and averages keep.

    Args:
        ledger: Of an experiment ``experiments/teachers/compare_*.yml``.
        made: How it was made, as is kept beside it.
        times: The record of `benchmarks.teachers.times` that tells what steps take; a ledger that
            grew on several machines does not.

    Raises:
        InputError: if nothing in it has been trained by back-propagation.
    """
    rows = rows_of(ledger)
    steps = {} if times is None else _steps(times)
    counts = sorted({k for _, k in rows if k > 1})
    names = list(dict.fromkeys(name for name, _ in rows))
    whole = _costs(rows[REFERENCE])
    results, shown = [], []
    for name in names:
        present = {k: rows[name, k] for k in (1, *counts) if (name, k) in rows}
        at = AT if AT in present else next(iter(present))
        found = _costs(present[at])
        for k, row in present.items():
            results.append(_values(row) | (found if k == at else {}))
        cells = (
            [_accuracy(present[1]), *[""] * (len(counts) - 1)]
            if 1 in present
            else [_accuracy(present[k]) if k in present else "–" for k in counts]
        )
        peak, held = found["peak_memory_mib"], found["held_mib"]
        shown.append(
            [
                f"`{name}`",
                *cells,
                f"{peak:.1f} ({peak / whole['peak_memory_mib']:.2f})",
                f"{held:.1f}",
                *([f"{steps[name, at]:.2f}" if (name, at) in steps else "–"] if steps else []),
                "–" if (speedup := found["ideal_speedup"]) is None else f"{speedup:.2f}",
                f"{found['inference_parameters'] / whole['inference_parameters']:.3f}",
            ]
        )
    headings = ["teacher", *(f"K = {k}" for k in counts), "peak, MiB", "held, MiB"]
    headings += [*(["step"] if steps else []), "speed-up", "weights in inference"]
    error = _error(rows.values())
    title = (
        "Test accuracy in %, mean and standard deviation over seeds (how many), rows without cuts "
        f"in the first column; at K = {AT} the peak of a step, in brackets over that of "
        "back-propagation, what of it is held between steps, "
        f"{'processor time of a step over its, ' if steps else ''}the ideal speed-up of a process "
        "for each block, where they can be in processes, and weights in inference over its. The "
        f"standard error of the difference of two means of three is {error}"
    )
    head = {} if made is None else {"header": read_json(made)}
    return View({**head, "rows": results}, [Table(title, headings, shown)])


def _steps(times: Path) -> dict[tuple[str, int], float]:
    return {(r["name"], r["num_blocks"]): r["ratio"] for r in read_json(times)["steps"]}


def _error(rows: Iterable[Row]) -> str:
    """Return sqrt(2 / 3) times the standard deviation between seeds, pooled over rows, in words."""
    variances = [
        (statistics.variance(a), len(a) - 1) for a in (r.accuracies for r in rows) if a[1:]
    ]
    if not variances:
        return "not known yet"
    pooled = sum(v * n for v, n in variances) / sum(n for _, n in variances)
    return f"{100 * math.sqrt(2 / 3 * pooled):.2f}"


def _values(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "num_blocks": row.num_blocks,
        "decouplings": sorted({t.trial.decoupling.in_words() for t in row.trainings}),
        "test_accuracies": row.accuracies,
        "validation_accuracies": [t.result.default for t in row.trainings],
    }


def _accuracy(row: Row) -> str:
    values = [100 * value for value in row.accuracies]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread} ({len(values)})"


def _costs(row: Row) -> dict[str, Any]:
    """Return what the trainings of a row took, the means over them, and what can be counted."""
    trial = row.trainings[0].trial
    with torch.device("meta"):
        backbone = task_backbone(trial.task)
        network = build_decoupled(backbone, row.decoupling)
    settings = TrainSettings.model_validate(trial.settings)
    form = step_form(settings)
    described = describe(backbone, row.decoupling, aux_names=[])
    training = sum((b.training for b in block_costs(backbone, row.decoupling)), Cost(0, 0))
    apart = described["parallel"] and settings.method.not_parallel is None
    return {
        "peak_memory_mib": row.peak_memory_mib,
        "ideal_speedup": described["ideal_speedup_with_auxiliary"] if apart else None,
        **asdict(training),
        "held_mib": sum(peaks_of_step(network, backbone.images, form).held) / _MIB,
        "inference_parameters": described["inference"]["parameters"],
        "inference_macs": described["inference"]["macs"],
    }
