"""Probing beside the best of its controls, on every table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tabular.table import Table
from benchmarks.tabular.views import judge
from benchmarks.view import Table as Shown
from benchmarks.view import View
from sedona_nni.errors import InputError

__all__ = ["SAMPLE", "overview", "sampled"]

SAMPLE = 5
"""So many decouplings into K blocks are needed for a correlation to say something."""

_SEARCH = "probe"
_TRAININGS = "a training of each"
_TRAINED = ("an epoch of each", _TRAININGS)  # of the controls those that train


def sampled(table: Table) -> list[int]:
    """Return each K of which enough decouplings were trained."""
    many = Counter(entry.num_blocks for entry in table.entries)
    return sorted(k for k, count in many.items() if k > 1 and count >= SAMPLE)


def overview(found: Path) -> View:
    """Return how well probing orders the decouplings of each table, a row for each K.

    Beside it one training of each decoupling, and of all that does not train the control that
    orders them best there: which it is is known only afterwards.

    Args:
        found: A folder with one for each table, named as the table in ``tables`` beside it is; see
            `benchmarks.tabular.views.judge`.

    Raises:
        InputError: if nothing was probed.
    """
    results, rows = [], []
    for folder in sorted(each for each in found.glob("*") if (each / _SEARCH).is_dir()):
        path = found.parent / "tables" / f"{folder.name}.json"
        table = Table.load(path)
        for num_blocks in sampled(table):
            row = _row(folder, path, num_blocks)
            among = len(table.decouplings(num_blocks))
            results.append({"table": folder.name, "num_blocks": num_blocks, **row})
            rows.append(
                [
                    folder.name,
                    f"{num_blocks}",
                    f"{among} of {table.size(num_blocks):,}",
                    f"{row['probing']:.2f}",
                    "–" if row["trainings"] is None else f"{row['trainings']:.2f}",
                    f"{row['control']:.2f}",
                    row["name"],
                ]
            )
    if not results:
        raise InputError.rule("FOUND", "must hold a folder with probings for a table", str(found))
    title = (
        "Rank correlation with the truth, the mean over searches or seeds: of probing, of one "
        "training of each decoupling, and of that control which is best there"
    )
    headings = ["table", "K", "decouplings", "probing", "trainings", "best control", "which is"]
    return View({"overview": results}, [Shown(title, headings, rows)])


def _row(found: Path, table: Path, num_blocks: int) -> dict[str, Any]:
    judged = judge(found, table, num_blocks).results

    def mean(agreements: list[dict[str, Any]]) -> float:
        return fmean(each["correlation"] for each in agreements)

    controls = {name: mean(each) for name, each in judged["controls"].items() if each}
    free = {name: r for name, r in controls.items() if name not in _TRAINED}
    best = max(free, key=lambda name: free[name])
    return {
        "probing": mean([each["agreement"] for each in judged["searches"][_SEARCH]]),
        "trainings": controls.get(_TRAININGS),
        "control": free[best],
        "name": best,
    }
