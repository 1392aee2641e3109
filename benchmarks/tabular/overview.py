"""Probing on every table: beside the best of its controls, and at equal cost beside all others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import t

from benchmarks.tabular.contest import contest, follow, holm, p_values
from benchmarks.tabular.controls import controls
from benchmarks.tabular.table import Table, rank_correlation
from benchmarks.tabular.views import ZERO_COSTS, judge
from benchmarks.view import Table as Shown
from benchmarks.view import View
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.searches.documents import load_outcome

__all__ = ["SAMPLE", "contests", "lead_p", "leads", "overview", "sampled"]

SAMPLE = 5
"""So many decouplings into K blocks are needed for a correlation to say something."""

_SEARCH = "probe"
_REPEATS = 200  # of what does not search, which leaves an error of a few hundredths of a percent
_CLEAR = 0.05
_ROUNDING = 1e-9
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

    See `benchmarks.tabular.contest`; what p says is corrected within a table. The second view has
    the controls, which know beforehand what the others find out: whether one is good on a table is
    known only afterwards, so of each there is the mean of all tables and the largest regret, too.

    Args:
        tables: The tables' files.
        found: See `overview`.
        budget: In trainings without cuts.

    Raises:
        InputError: if nothing was probed.
    """
    results: list[dict[str, Any]] = []
    beside = "back-propagation"
    for folder, path in _probed(tables, found):
        table = Table.load(path)
        contenders = contest(table, {_SEARCH: _probings(folder)}, budget, repeats=_REPEATS)
        p = p_values(contenders, _SEARCH)
        among = table.decouplings(2)
        scores = controls(table, among, folder / ZERO_COSTS)
        results.append(
            {
                "table": folder.name,
                "contenders": [{**asdict(each), "p": p.get(each.name)} for each in contenders],
                "controls": [asdict(each) for each in follow(table, scores, budget)],
                "backprop": table.lead(max(among, key=table.truth), table.undivided),
            }
        )
    time = f"with the processor time of {budget:g} trainings"
    title = (
        f"True regret of the picks into two blocks, % of test accuracy, {time}; * differs from "
        "probing's, p < 0.05 after Holm; back-propagation by the seeds that the best decoupling "
        "has, too: what is below 0 is better than that"
    )
    contended = [
        {**_cells(each["contenders"]), beside: (each["backprop"], False)} for each in results
    ]
    told = f"The same for controls, {time}, beside probing"
    controlled = [_cells([each["contenders"][0], *each["controls"]]) for each in results]
    names = [each["table"] for each in results]
    shown = [_regrets(title, names, contended), _regrets(told, names, controlled)]
    return View({"budget": budget, "contests": results}, shown)


def _cells(contenders: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, bool]]:
    """Return the mean regret of each by its name, and whether it clearly differs from probing's."""
    return {each["name"]: (fmean(each["regrets"]), _clear(each.get("p"))) for each in contenders}


def _clear(p: float | None) -> bool:
    return p is not None and p < _CLEAR


def _regrets(
    title: str, tables: Sequence[str], rows: Sequence[Mapping[str, tuple[float, bool]]]
) -> Shown:
    """Return a row of regrets for each table, and if there are several their mean and largest."""
    names = [*dict.fromkeys(name for row in rows for name in row)]
    cells = [
        [table, *(_percent(*row[name]) if name in row else "–" for name in names)]
        for table, row in zip(tables, rows, strict=True)
    ]
    if len(rows) > 1:
        columns = [[row[name][0] for row in rows if name in row] for name in names]
        cells.append(["*mean*", *(_percent(fmean(each)) for each in columns)])
        cells.append(["*largest*", *(_percent(max(each)) for each in columns)])
    return Shown(title, ["table", *(name.replace("_", " ") for name in names)], cells)


def _percent(fraction: float, clear: bool = False) -> str:
    return f"{100 * fraction:.2f}{'*' if clear else ''}"


def leads(tables: Sequence[Path], found: Path, budget: float = 4) -> View:
    """Return by how much probing's picks are better than others', by truths that they have no part
    in, a row for each table.

    With each seed in turn everybody picks by the trainings with that seed, and picks are judged by
    those with the others. The lead is the difference of mean regrets, and whether there is one is a
    t-test over the n seeds: so that the table's noise counts, which `contests` takes as it is. As
    two of them share nearly all seeds that they are judged by, its error is the jackknife's,
    sqrt((n - 1) / n sum_s (l_s - mean)^2), n - 1 times that of n leads that share nothing.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.

    Args:
        tables: The tables' files.
        found: See `overview`.
        budget: In trainings without cuts.

    Raises:
        InputError: if nothing was probed, or a table has one seed alone.
    """
    results: list[dict[str, Any]] = []
    for folder, path in _probed(tables, found):
        table = Table.load(path)
        regrets: dict[str, list[float]] = {}
        seeds = table.by_seed(table.decouplings(2), lambda training: training.seed)
        if len(seeds) < 2:
            raise InputError.rule("seeds", f"must be two or more in {path}", len(seeds))
        searched = {_SEARCH: _probings(folder)}
        for seed in seeds:
            queried, truths = table.of_seeds(seed.__eq__), table.of_seeds(seed.__ne__)
            for found_by in contest(queried, searched, budget, truths=truths, seed=seed):
                if len(found_by.regrets) > 1 or found_by.name == _SEARCH:
                    regrets.setdefault(found_by.name, []).append(found_by.mean)
        own = regrets.pop(_SEARCH)
        behind = {
            name: [a - b for a, b in zip(each, own, strict=True)] for name, each in regrets.items()
        }
        results.append({"table": folder.name, "probing": own, "leads": behind})
    every = [(each, name) for each in results for name in each["leads"]]
    plain = [lead_p(each["leads"][name]) for each, name in every]
    for (each, name), p in zip(every, holm(plain), strict=True):
        each.setdefault("p", {})[name] = p
    names = [*dict.fromkeys(name for _, name in every)]
    rows = [
        [
            each["table"],
            f"{len(each['probing'])}",
            _percent(fmean(each["probing"])),
            *(
                f"{_percent(fmean(each['leads'][name]), each['p'][name] < _CLEAR)} "
                f"({_percent(min(each['leads'][name]))} to {_percent(max(each['leads'][name]))})"
                if name in each["leads"]
                else "–"
                for name in names
            ),
        ]
        for each in results
    ]
    title = (
        "Regret of probing's picks into two blocks by truths that they have no part in, % of test "
        f"accuracy, with the processor time of {budget:g} trainings, and by how much it is less "
        "than that of others: the mean over the seeds, least and most; * p < 0.05 over the seeds, "
        "after Holm over the table"
    )
    headings = ["table", "seeds", "probing", *(name.replace("_", " ") for name in names)]
    return View({"budget": budget, "leads": results}, [Shown(title, headings, rows)])


def lead_p(leads: Sequence[float]) -> float:
    """Return p of there being a lead, see `leads`; where it does not vary nothing can be told.

    Args:
        leads: One for each seed that was left out, two or more.
    """
    mean, count = fmean(leads), len(leads)
    error = math.sqrt((count - 1) / count * math.fsum((each - mean) ** 2 for each in leads))
    return 1.0 if error < _ROUNDING else float(2 * t.sf(abs(mean) / error, count - 1))


def _probings(folder: Path) -> list[SearchOutcome]:
    return [load_outcome(each) for each in sorted((folder / _SEARCH).glob("*.json"))]


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
