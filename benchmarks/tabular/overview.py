"""Probing on every table: beside the best of its controls, and at equal cost beside all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tabular.contest import Contender, contest, p_values
from benchmarks.tabular.table import Table, rank_correlation
from benchmarks.tabular.views import judge
from benchmarks.view import Table as Shown
from benchmarks.view import View
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


def overview(tables: Sequence[Path], found: Path) -> View:
    """Return how well probing orders the decouplings of each table, a row for each K.

    Beside it one training of each decoupling, and of all that does not train the control that
    orders them best there: which it is is known only afterwards. As a training says nothing new of
    a truth that it is part of, each is compared with the truth of all seeds but its own; so that
    this is no handicap, all others are compared with the truths of all seeds but one, too.

    Args:
        tables: The tables' files.
        found: A folder with one for each table, named as the table is; see
            `benchmarks.tabular.views.judge`.

    Raises:
        InputError: if nothing was probed.
    """
    results, rows = [], []
    for folder, path in _probed(tables, found):
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
        "Rank correlation with the truth of all seeds but one, the mean over that seed and over "
        "searches: of probing, of one training of each decoupling (with the seed that is left "
        "out), and of that control which is best there of those that train nothing"
    )
    headings = ["table", "K", "decouplings", "probing", "trainings", "best control", "which is"]
    return View({"overview": results}, [Shown(title, headings, rows)])


def contests(tables: Sequence[Path], found: Path, budget: float = 4) -> View:
    """Return what probing and all that does not search pick at equal cost, a row for each table.

    See `benchmarks.tabular.contest`; what p says is corrected within a table.

    Args:
        tables: The tables' files.
        found: See `overview`.
        budget: In trainings without cuts.

    Raises:
        InputError: if nothing was probed.
    """
    results, rows, names = [], [], dict[str, None]()
    for folder, path in _probed(tables, found):
        table = Table.load(path)
        probings = [load_outcome(each) for each in sorted((folder / _SEARCH).glob("*.json"))]
        contenders = contest(table, {_SEARCH: probings}, budget)
        p = p_values(contenders, _SEARCH)
        best = max(table.decouplings(2), key=table.truth)
        behind = table.lead(best, table.undivided)
        results.append(
            {
                "table": folder.name,
                "contenders": [{**asdict(each), "p": p.get(each.name)} for each in contenders],
                "backprop": behind,
            }
        )
        shown = {each.name: _shown(each, p) for each in contenders}
        rows.append((folder.name, shown, f"{100 * behind:.2f}"))
        names |= dict.fromkeys(shown)
    title = (
        "True regret of the picks into two blocks, % of test accuracy, with the processor time of "
        f"{budget:g} trainings; * differs from probing's, p < 0.05 after Holm; back-propagation by "
        "the seeds that the best decoupling has, too: what is below 0 is better than that"
    )
    cells = [[name, *(shown.get(each, "–") for each in names), last] for name, shown, last in rows]
    headings = ["table", *(each.replace("_", " ") for each in names), "back-propagation"]
    return View({"budget": budget, "contests": results}, [Shown(title, headings, cells)])


def _shown(each: Contender, p: Mapping[str, float]) -> str:
    return f"{100 * each.mean:.2f}{'*' if p.get(each.name, 1) < _CLEAR else ''}"


def _probed(tables: Sequence[Path], found: Path) -> list[tuple[Path, Path]]:
    """Return the folder of searches and the file of each table that was probed."""
    probed = [(found / path.stem, path) for path in tables]
    probed = [(folder, path) for folder, path in probed if any((folder / _SEARCH).glob("*.json"))]
    if not probed:
        raise InputError.rule("--found", "must hold a folder with probings for a table", str(found))
    return probed


def _row(folder: Path, path: Path, num_blocks: int) -> dict[str, Any]:
    judged, table = judge(folder, path, num_blocks).results, Table.load(path)
    among = table.decouplings(num_blocks)
    seeds = table.by_seed(among, lambda training: training.seed)
    left_out: list[int | None] = [*seeds] if len(seeds) > 1 else [None]
    truths = [[table.truth(each, without=seed) for each in among] for seed in left_out]

    def mean(agreements: list[dict[str, Any]]) -> float:
        pairs = product(agreements, truths)
        return fmean(rank_correlation(each["scores"], rest) for each, rest in pairs)

    controls = {
        name: mean(each)
        for name, each in judged["controls"].items()
        if each and name not in _TRAINED
    }
    best = max(controls, key=lambda name: controls[name])
    trained = judged["controls"][_TRAININGS]  # by its seed, against the rest, already
    return {
        "probing": mean([each["agreement"] for each in judged["searches"][_SEARCH]]),
        "trainings": fmean(each["correlation"] for each in trained) if trained else None,
        "control": controls[best],
        "name": best,
    }
