"""The best of each column of comparisons of teachers, for those who read one table alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.teachers.ledger import REFERENCE, rows_of
from benchmarks.teachers.views import AT
from benchmarks.view import Table, View
from sedona_nni.errors import InputError
from sedona_nni.files import read_json

__all__ = ["best"]

_CHECKPOINTED = ("backprop-checkpointed", 1)


def best(ledgers: Sequence[Path], times: Sequence[Path]) -> View:
    """Return a row for each network: which teacher or method validates best for each K and how it
    tests, the least peak and the fastest steps, and what back-propagation has.

    Args:
        ledgers: Of experiments ``experiments/teachers/compare_*.yml``, one per network.
        times: Of each ledger the record of what its steps take, see `benchmarks.teachers.times`.

    Raises:
        InputError: if there are more of one than of the other, or nothing in a ledger has been
            trained by back-propagation.
    """
    if len(ledgers) != len(times):
        raise InputError.rule("times", f"must be {len(ledgers)}, one for each ledger", len(times))
    found = [_best(*each) for each in zip(ledgers, times, strict=True)]
    counts = sorted({k for each in found for k in each["accuracy"]})
    rows = []
    for each in found:
        accuracies = [each["accuracy"].get(k) for k in counts]
        peak, step = each["peak"], each["step"]
        rows.append(
            [
                each["network"],
                _with_deviation(each["backprop"], each["deviation"]),
                *("–" if a is None else _in_words(a) for a in accuracies),
                f"`{peak['name']}` {peak['value']:.2f}, checkpointing {each['checkpointed']:.2f}",
                f"`{step['name']}` {step['value']:.2f}",
            ]
        )
    title = (
        "Mean test accuracy, %, with the standard deviation between seeds, of back-propagation "
        "and of what validates best of all that learns by blocks (of equals the first's); at "
        f"K = {AT} the least peak of a step's tensors and the least processor time of a step in "
        "one process, over back-propagation's"
    )
    headings = ["network", "back-propagation", *(f"K = {k}" for k in counts), "peak", "step"]
    return View({"networks": found}, [Table(title, headings, rows)])


def _best(ledger: Path, times: Path) -> dict[str, Any]:
    network = ledger.stem.removeprefix("compare_")
    rows = rows_of(ledger)
    steps = read_json(times)["steps"]
    accuracies = {key: statistics.fmean(row.accuracies) for key, row in rows.items()}
    validated = {key: statistics.fmean(row.validated) for key, row in rows.items()}
    deviations = {
        key: statistics.stdev(row.accuracies) if len(row.accuracies) > 1 else None
        for key, row in rows.items()
    }
    peaks = {key: row.peak_memory_mib for key, row in rows.items()}
    peaks = {key: peak / peaks[REFERENCE] for key, peak in peaks.items()}
    ratios = {(step["name"], step["num_blocks"]): step["ratio"] for step in steps}
    counts = sorted({k for _, k in rows if k > 1})
    return {
        "network": network,
        "backprop": accuracies[REFERENCE],
        "checkpointed": peaks[_CHECKPOINTED],
        "deviation": deviations[REFERENCE],
        "accuracy": {k: _chosen(validated, accuracies, deviations, k) for k in counts},
        "peak": _least(peaks, AT),
        "step": _least(ratios, AT),
    }


def _chosen(
    validated: Mapping[tuple[str, int], float],
    accuracies: Mapping[tuple[str, int], float],
    deviations: Mapping[tuple[str, int], float | None],
    num_blocks: int,
) -> dict[str, Any]:
    """Return who validates best into so many blocks, and how the first of them tests: chosen by its
    test accuracy, the best of many would look better than it is."""
    of_k = {name: value for (name, k), value in validated.items() if k == num_blocks}
    most = max(of_k.values())
    names = [name for name, own in of_k.items() if own == most]
    first = (names[0], num_blocks)
    return {"names": names, "value": accuracies[first], "deviation": deviations[first]}


def _in_words(best: dict[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in best["names"])
    return f"{names} {_with_deviation(best['value'], best['deviation'])}"


def _with_deviation(mean: float, deviation: float | None) -> str:
    """Return both in percent; of a single seed there is none."""
    spread = "" if deviation is None else f" ({100 * deviation:.2f})"
    return f"{100 * mean:.2f}{spread}"


def _least(values: Mapping[tuple[str, int], float], num_blocks: int) -> dict[str, Any]:
    """Return the name and the value of the least into so many blocks."""
    of_k = {name: value for (name, k), value in values.items() if k == num_blocks}
    name = min(of_k, key=lambda each: of_k[each])
    return {"name": name, "value": of_k[name]}
