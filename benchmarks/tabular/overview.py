"""Probing on every table: beside the best of its controls, and at equal cost beside all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tabular.contest import Contender, contest, p_values
from benchmarks.tabular.table import Table
from benchmarks.tabular.views import judge
from benchmarks.view import Table as Shown
from benchmarks.view import View
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.documents import load_outcome

__all__ = ["SAMPLE", "contests", "overview", "sampled"]

SAMPLE = 5
"""So many decouplings into K blocks are needed for a correlation to say something."""

_SEARCH = "probe"
_CLEAR = 0.05
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
    for folder, path in _probed(found):
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
    title = (
        "Rank correlation with the truth, the mean over searches or seeds: of probing, of one "
        "training of each decoupling, and of that control which is best there"
    )
    headings = ["table", "K", "decouplings", "probing", "trainings", "best control", "which is"]
    return View({"overview": results}, [Shown(title, headings, rows)])


def contests(found: Path, budget: float = 4) -> View:
    """Return what probing and all that does not search pick at equal cost, a row for each table.

    See `benchmarks.tabular.contest`; what p says is corrected within a table.

    Args:
        found: See `overview`.
        budget: In trainings without cuts.

    Raises:
        InputError: if nothing was probed.
    """
    results, rows, headings = [], [], []
    for folder, path in _probed(found):
        table = Table.load(path)
        probings = [load_outcome(each) for each in sorted((folder / _SEARCH).glob("*.json"))]
        contenders = contest(table, {_SEARCH: probings}, budget)
        p = p_values(contenders, _SEARCH)
        undivided = table.truth(Decoupling(backbone=table.task.backbone))
        behind = max(map(table.truth, table.decouplings(2))) - undivided
        results.append(
            {
                "table": folder.name,
                "contenders": [{**asdict(each), "p": p.get(each.name)} for each in contenders],
                "backprop": behind,
            }
        )
        rows.append([folder.name, *(_shown(each, p) for each in contenders), f"{100 * behind:.2f}"])
        headings = [each.name.replace("_", " ") for each in contenders]
    title = (
        "True regret of the picks into two blocks, % of test accuracy, with the processor time of "
        f"{budget:g} trainings; * differs from probing's, p < 0.05 after Holm; what is below 0 is "
        "better than the best decoupling"
    )
    return View(
        {"budget": budget, "contests": results},
        [Shown(title, ["table", *headings, "back-propagation"], rows)],
    )


def _shown(each: Contender, p: Mapping[str, float]) -> str:
    return f"{100 * each.mean:.2f}{'*' if p.get(each.name, 1) < _CLEAR else ''}"


def _probed(found: Path) -> list[tuple[Path, Path]]:
    """Return the folder of searches and the table of each table that was probed."""
    folders = sorted(each for each in found.glob("*") if (each / _SEARCH).is_dir())
    if not folders:
        raise InputError.rule("FOUND", "must hold a folder with probings for a table", str(found))
    return [(each, found.parent / "tables" / f"{each.name}.json") for each in folders]


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
