"""What a table of trainings says, and what it says of strategies and searches: views of files.

Nothing is measured here: the same files give the same values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import numpy as np

from benchmarks.tabular.ablation import ablate as ablated
from benchmarks.tabular.contest import contest as contested
from benchmarks.tabular.contest import p_values
from benchmarks.tabular.controls import controls
from benchmarks.tabular.evidence import (
    VARIANTS,
    Agreement,
    Judgement,
    agreement,
    between,
    search_cost,
)
from benchmarks.tabular.evidence import judge as judged
from benchmarks.tabular.probe_losses import ProbeLosses
from benchmarks.tabular.race import RACERS
from benchmarks.tabular.race import race as raced
from benchmarks.tabular.references import References
from benchmarks.tabular.table import Field, Table, Training, rank_correlation
from benchmarks.view import Table as Shown
from benchmarks.view import View
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.searches.documents import load_outcome
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult

__all__ = [
    "REFERENCES",
    "ZERO_COSTS",
    "ablate",
    "contest",
    "cover",
    "judge",
    "longer",
    "race",
    "show",
]

ZERO_COSTS = "zero-costs.json"
"""Under which name zero-cost scores stand beside what searches found."""

REFERENCES = "references.json"
"""Likewise back-propagation and its checkpointed form."""

_AGREEMENT = (
    *("rank correlation", "least", "where", "which", "between seeds"),
    *("mean rank", "regret %", "true ranks of picks"),
)


def cover(tables: Sequence[Path]) -> View:
    """Return what tables hold, which may be growing, a row for each and each K.

    That is how many decouplings were trained and with how many seeds, best and worst truth, the
    standard deviation between seeds (the square root of the mean variance within decouplings), the
    error that it leaves where there is a difference, the cost, and of a space that is whole how
    well one seed tells another's ranking.

    Args:
        tables: The tables' files.
    """
    results, rows = [], []
    for path in tables:
        loaded = Table.load(path)
        for num_blocks in sorted({entry.num_blocks for entry in loaded.entries}):
            row = {"table": path.stem, **_covered(loaded, num_blocks)}
            results.append(row)
            rows.append(
                [
                    path.stem,
                    f"{num_blocks}",
                    f"{row['decouplings']} of {row['of']:,}",
                    f"{row['seeds']}",
                    _percent(row["best"]),
                    _percent(row["worst"]),
                    _percent(row["standard_deviation"]),
                    _percent(row["error_of_difference"]),
                    "–" if row["processor_s"] is None else f"{row['processor_s']:.0f}",
                    "–" if row["seed_correlation"] is None else f"{row['seed_correlation']:.2f}",
                    "–" if row["near_the_best"] is None else f"{row['near_the_best']}",
                ]
            )
    headings = ["table", "K", "trained", "seeds", "best %", "worst %", "s %", "error %"]
    headings += ["seconds", "r", "near"]
    title = (
        "Decouplings trained, with at least so many seeds; standard deviation between seeds (s), "
        "standard error of the difference of two truths, by seeds that all have; seconds of a core "
        "for a training; rank correlation between two seeds (r), decouplings within two errors of "
        "the best (near)"
    )
    return View({"cover": results}, [Shown(title, headings, rows)])


def _covered(table: Table, num_blocks: int) -> dict[str, Any]:
    among = table.decouplings(num_blocks)
    entries = [table[each] for each in among]
    accuracies = [[t.test_accuracy for t in entry.trainings] for entry in entries]
    spread = math.sqrt(fmean([variance(each) for each in accuracies if len(each) > 1] or [0]))
    least = min(map(len, accuracies))
    truths = [table.truth(each) for each in among]
    seconds = [t.processor_s for entry in entries for t in entry.trainings if t.processor_s]
    error = _error(table, among)
    near = None if error is None else sum(max(truths) - each <= 2 * error for each in truths)
    whole = len(among) == table.size(num_blocks)
    return {
        "num_blocks": num_blocks,
        "decouplings": len(among),
        "of": table.size(num_blocks),
        "trainings": sum(map(len, accuracies)),
        "seeds": least,
        "best": max(truths),
        "worst": min(truths),
        "standard_deviation": spread,
        "error_of_difference": error,
        "processor_s": fmean(seconds) if seconds else None,
        "seed_correlation": table.seed_correlation(among) if whole and near else None,
        "near_the_best": near if whole else None,
    }


def _error(table: Table, among: Sequence[Decoupling]) -> float | None:
    """Return the error of a difference, None where there is nothing to tell it by."""
    seeds = table.by_seed(among, lambda training: training.seed)
    return table.error_of_difference(among) if len(among) > 1 and len(seeds) > 1 else None


def longer(long: Path, table: Path) -> View:
    """Return what becomes of decouplings that are trained for longer, a row for each K.

    Args:
        long: A table of trainings of more epochs.
        table: That of the short ones, which must hold all that the other holds.

    Raises:
        InputError: if a decoupling is in the first alone.
    """
    short, after = Table.load(table), Table.load(long)
    results: list[dict[str, Any]] = []
    rows = []
    for num_blocks in sorted({entry.num_blocks for entry in after.entries}):
        among = after.decouplings(num_blocks)
        truths = [[each.truth(decoupling) for decoupling in among] for each in (short, after)]
        enough = len(among) > 1
        row: dict[str, Any] = {
            "num_blocks": num_blocks,
            "decouplings": len(among),
            "seeds": [min(len(t[each].trainings) for each in among) for t in (short, after)],
            "mean": [fmean(each) for each in truths],
            "range": [max(each) - min(each) for each in truths],
            "error_of_difference": [_error(each, among) for each in (short, after)],
            "correlation": rank_correlation(*truths) if enough else None,
            "regret": max(truths[1]) - truths[1][int(np.argmax(truths[0]))],
        }
        results.append(row)
        rows.append(
            [
                f"{num_blocks}",
                f"{len(among)}",
                " → ".join(map(str, row["seeds"])),
                *(" → ".join(map(_percent, row[key])) for key in ("mean", "range")),
                " → ".join(map(_percent, row["error_of_difference"])),
                "–" if row["correlation"] is None else f"{row['correlation']:.2f}",
                _percent(row["regret"]) if enough else "–",
            ]
        )
    title = (
        f"Test accuracies after {short.train.epochs} and {after.train.epochs} epochs, %; rank "
        "correlation of the two; regret after the longer training of what the shorter finds best"
    )
    headings = ["K", "decouplings", "seeds", "mean %", "best less worst %", "error %", "r"]
    return View({"longer": results}, [Shown(title, [*headings, "regret %"], rows)])


def show(table: Path, num_blocks: int = 2, max_block_share: str | None = None) -> View:
    """Return all decouplings by their truth, how well one seed tells another's ranking, the noise.

    Args:
        table: The table's file.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
    """
    loaded = Table.load(table)
    among = loaded.decouplings(num_blocks, max_block_share)
    ordered = sorted(among, key=loaded.truth, reverse=True)
    fields: tuple[Field, ...] = ("test_accuracy", "validation_accuracy")
    correlation = {field: loaded.seed_correlation(among, field) for field in fields}
    error = loaded.error_of_difference(among)
    near = sum(loaded.regret(each, among) <= 2 * error for each in among)
    by_cuts = rank_correlation(
        [loaded.sum_of_cuts(each) for each in among], [loaded.truth(each) for each in among]
    )
    title = (
        f"{len(among)} decouplings, K = {num_blocks}; rank correlation between two seeds: test "
        f"{correlation['test_accuracy']:.2f}, validation {correlation['validation_accuracy']:.2f}; "
        f"standard error of a difference {100 * error:.2f} %, and {near} are within two of the best"
    )
    if num_blocks > 2:
        title += f"; of the truth with the sum over the cuts of the truth for each: {by_cuts:.2f}"
    headings = ["decoupling", "rank", "test %", "of single seeds", "validation %", "ideal speed-up"]
    rows = [
        [
            each.in_words(),
            str(loaded.rank(each, among)),
            f"{100 * loaded.truth(each):.2f}",
            " ".join(f"{100 * t.test_accuracy:.1f}" for t in loaded[each].trainings),
            f"{100 * loaded[each].mean('validation_accuracy'):.2f}",
            f"{loaded[each].ideal_speedup:.2f}",
        ]
        for each in ordered
    ]
    results = {
        "seed_correlation": correlation,
        "error_of_difference": error,
        "within_two_errors_of_the_best": near,
        "correlation_with_sum_of_cuts": by_cuts,
        "decouplings": [
            {"rank": loaded.rank(each, among), **loaded[each].model_dump(mode="json")}
            for each in ordered
        ],
    }
    return View(results, [Shown(title, headings, rows)])


def race(
    table: Path,
    num_blocks: int = 2,
    max_block_share: str | None = None,
    budgets: Sequence[float] = (0.5, 1, 2, 4, 8, 16),
    repeats: int = 100,
    seed: int = 0,
) -> View:
    """Return the regret of strategies' picks by the processor time that they may take.

    Args:
        table: The table's file.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        budgets: In trainings without cuts.
        repeats: Picks per strategy.
        seed: Of everything that is drawn.
    """
    loaded, clocks = Table.load(table), sorted(budgets)
    results, rows = {}, []
    for name in RACERS:
        found = raced(
            loaded,
            name,
            clocks,
            num_blocks=num_blocks,
            repeats=repeats,
            max_block_share=max_block_share,
            seed=seed,
        )
        results[name] = {
            "mean_regret": found.mean(axis=0).round(6).tolist(),
            "standard_deviation": found.std(axis=0, ddof=1).round(6).tolist(),
        }
        rows.append([name, *(f"{100 * mean:.2f}" for mean in found.mean(axis=0))])
    title = (
        f"Mean regret, % of test accuracy, of the pick after the processor time of n trainings "
        f"without cuts{_within(max_block_share)}"
    )
    headings = ["after n trainings", *(f"{budget:g}" for budget in clocks)]
    return View({"budgets": clocks, "strategies": results}, [Shown(title, headings, rows)])


def contest(
    found: Path,
    table: Path,
    budget: float = 4,
    num_blocks: int = 2,
    max_block_share: str | None = None,
    repeats: int = 100,
    seed: int = 0,
    reference: str | None = None,
) -> View:
    """Return what searches and strategies pick at equal cost, and which differ.

    Args:
        found: A folder with one for each search, of whose outcomes each is a replicate; and with
            trained references, `REFERENCES`, if there are to be such.
        table: The table's file.
        budget: In trainings without cuts.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        repeats: Replicates of each strategy that does not search.
        seed: Of everything that is drawn.
        reference: What the others are compared with; by default the first search.

    Raises:
        InputError: if the folder holds no outcome.
    """
    loaded, outcomes = Table.load(table), _outcomes(found)
    contenders = contested(
        loaded,
        outcomes,
        budget,
        num_blocks=num_blocks,
        max_block_share=max_block_share,
        repeats=repeats,
        seed=seed,
    )
    reference = reference or next(each.name for each in contenders if each.regrets)
    p = p_values(contenders, reference)
    rows = [
        [
            each.name,
            f"{len(each.regrets)}" if each.regrets else "–",
            f"{each.cost:.2f}",
            f"{100 * each.mean:.2f}" if each.regrets else "over budget",
            f"{100 * stdev(each.regrets):.2f}" if len(each.regrets) > 1 else "–",
            _p(p[each.name]) if each.name in p else "–",
        ]
        for each in contenders
    ]
    title = (
        f"{loaded.task.backbone} on {loaded.task.dataset}, K = {num_blocks}"
        f"{_within(max_block_share)}: true regret of the picks, % of test accuracy, with the "
        f"processor time of {budget:g} trainings; p against {reference}, after Holm"
    )
    headings = ["contender", "n", "search costs", "regret %", "s %", "p"]
    results = {
        "budget": budget,
        "reference": reference,
        "contenders": [{**asdict(each), "p": p.get(each.name)} for each in contenders],
    }
    tables = [Shown(title, headings, rows)]
    if (path := found / REFERENCES).exists():
        references = References.load(path)
        results["references"] = references.model_dump(mode="json")["trainings"]
        tables.append(_references(references, loaded))
    return View(results, tables)


def _references(references: References, table: Table) -> Shown:
    """Return a row for each reference; the first is what others are compared with."""
    first, best = references.trainings[0], max(table.decouplings(2), key=table.truth)
    title = (
        f"What is trained instead, with seed {references.seed}, beside the best decoupling into "
        f"two blocks: back-propagation's regret, by the seeds of both, is "
        f"{100 * table.lead(best, table.undivided):.2f} %"
    )
    rows = [
        [
            each.name,
            f"{100 * each.test_accuracy:.2f}",
            f"{each.processor_s:.1f}",
            f"{each.processor_s / first.processor_s:.2f}",
            f"{each.peak_memory_mib:.1f}",
            f"{each.ideal_peak_memory_mib:.1f}",
        ]
        for each in references.trainings
    ]
    headings = ["", "test %", "seconds of a core", "of the first", "step, MiB", "largest, MiB"]
    return Shown(title, headings, rows)


def judge(
    found: Path,
    table: Path,
    num_blocks: int = 2,
    max_block_share: str | None = None,
) -> View:
    """Return rank and regret of what searches picked, and how their evidence follows the truth.

    Beside them what controls say, which no search has made, see `benchmarks.tabular.controls`; and
    of probings what is left with less than their whole evidence.

    Args:
        found: A folder with one for each search, of whose outcomes each is a replicate; and with
            the zero-cost scores, `ZERO_COSTS`, if they are wanted among the controls.
        table: The table's file.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.

    Raises:
        InputError: if the folder holds no outcome.
    """
    loaded, outcomes = Table.load(table), _outcomes(found)
    among = loaded.decouplings(num_blocks, max_block_share)
    truths = [loaded.truth(each) for each in among]
    verdicts = {
        name: [judged(loaded, each, num_blocks, max_block_share) for each in replicates]
        for name, replicates in outcomes.items()
    }
    costs = {
        name: [search_cost(each) for each in replicates] for name, replicates in outcomes.items()
    }
    without = controls(loaded, among, found / ZERO_COSTS)
    said = {name: [Agreement.of(s, truths, among) for s in each] for name, each in without.items()}
    # What can be known after so many steps, by training itself and not by a derivative
    said["an epoch of each"] = _trainings(loaded, among, lambda each: -each.train_losses[0])
    said["a training of each"] = _trainings(loaded, among, lambda each: each.validation_accuracy)
    rows = [
        *([*_verdicts(name, each), _mean(costs[name])] for name, each in verdicts.items()),
        *([*_agreements(f"*{name}*", each), ""] for name, each in said.items()),
    ]
    title = (
        f"{loaded.task.backbone} on {loaded.task.dataset}, {len(among)} trained decouplings, "
        f"K = {num_blocks}{_within(max_block_share)}: rank correlation of the evidence with the "
        "truth, picks, cost of the search in trainings by processor time; controls are slanted"
    )
    headings = ["", *_AGREEMENT, "cost"]
    tables = [Shown(title, headings, rows)]
    variants = {}
    probings = [e for each in outcomes.values() for e in each if isinstance(e, ProbeResult)]
    if probings:
        variants = {
            name: [agreement(variant(each), each.aux_choices, among, truths) for each in probings]
            for name, variant in VARIANTS.items()
        }
        title = f"What else could be made of the probings, of {len(among)} trained decouplings"
        rows = [_agreements(name, each) for name, each in variants.items()]
        tables.append(Shown(title, ["evidence", *_AGREEMENT], rows))
    results = {
        "searches": {
            name: [
                {**each.document(), "cost": cost}
                for each, cost in zip(verdicts[name], costs[name], strict=True)
            ]
            for name in outcomes
        },
        "controls": {name: [asdict(each) for each in row] for name, row in said.items()},
        "variants": {name: [asdict(each) for each in row] for name, row in variants.items()},
    }
    return View(results, tables)


def _outcomes(found: Path) -> dict[str, list[SearchOutcome]]:
    """Return what each search found, by the names of the folders.

    Where the choice was by perturbation, there is another search beside it: what would have been
    chosen by size, at the same cost.
    """
    outcomes: dict[str, list[SearchOutcome]] = {}
    for folder in sorted(each for each in found.glob("*") if each.is_dir()):
        if replicates := [load_outcome(path) for path in sorted(folder.glob("*.json"))]:
            outcomes[folder.name] = replicates
        if by_size := [
            each.model_copy(update={"perturbed": None})
            for each in replicates
            if isinstance(each, SearchResult) and each.perturbed is not None
        ]:
            outcomes[f"{folder.name}, by size"] = [*by_size]
    if not outcomes:
        raise InputError.rule("FOUND", "must hold folders with outcomes of searches", str(found))
    return outcomes


def _mean(costs: Sequence[float | None]) -> str:
    known = [cost for cost in costs if cost is not None]
    return f"{fmean(known):.2f}" if known else "–"


def _verdicts(name: str, found: Sequence[Judgement]) -> list[str]:
    """Return a row for readers, see `_AGREEMENT`; a pick that was not trained has no rank."""
    agreements = [each.agreement for each in found]
    ranks = [each.rank for each in found if each.rank is not None]
    regrets = [each.regret for each in found if each.regret is not None]
    return [
        f"{name}, {len(found)} searches" if len(found) > 1 else name,
        *_correlations(agreements),
        f"{fmean(ranks):.1f}" if ranks else "–",
        f"{100 * fmean(regrets):.2f}" if regrets else "–",
        " ".join("–" if each.rank is None else str(each.rank) for each in found),
    ]


def ablate(losses: Sequence[Path], table: Path, num_blocks: int = 2) -> View:
    """Return what probings of other forms would have found, and at what cost.

    Args:
        losses: Files of probes' losses, one per seed, of one kind.
        table: The table's file.
        num_blocks: K.
    """
    loaded, seen = Table.load(table), [ProbeLosses.load(path) for path in losses]
    found = ablated(loaded, seen, num_blocks)
    among = loaded.decouplings(num_blocks)
    title = (
        f"Forms of probing, of {len(among)} trained decouplings, batches of {seen[0].batch_size}, "
        f"{seen[0].schedule} rate; cost in trainings without cuts, by processor time of steps"
    )
    rows = [[*_agreements(name, each), f"{cost:.2f}"] for name, (each, cost) in found.items()]
    results = {
        name: {"cost": cost, "agreements": [asdict(each) for each in agreements]}
        for name, (agreements, cost) in found.items()
    }
    return View({"ablation": results}, [Shown(title, ["form", *_AGREEMENT, "cost"], rows)])


def _trainings(
    table: Table, among: Sequence[Decoupling], score: Callable[[Training], float]
) -> list[Agreement]:
    """Compare each seed's scores, of which the best would be picked, with the truth of the other
    seeds; nothing if there is one seed alone."""
    seen = table.by_seed(among, score)
    if len(seen) < 2:
        return []
    return [
        Agreement.of(scores, [table.truth(each, without=seed) for each in among], among)
        for seed, scores in seen.items()
    ]


def _agreements(name: str, found: Sequence[Agreement]) -> list[str]:
    """Return a row for readers, see `_AGREEMENT`."""
    if not found:
        return [name, *["–"] * len(_AGREEMENT)]
    ranks = [each.rank for each in found]
    return [
        name,
        *_correlations(found),
        f"{fmean(ranks):.1f}",
        f"{100 * fmean(each.regret for each in found):.2f}",
        " ".join(map(str, ranks)),
    ]


def _correlations(found: Sequence[Agreement]) -> list[str]:
    overall = [each.correlation for each in found]
    where, which = fmean(each.where for each in found), fmean(each.which for each in found)
    again = between(found)
    known = [f"{r:.2f}" for r in (fmean(overall), min(overall), where, which)]
    return [*known, "–" if again is None else f"{again:.2f}"]


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _p(value: float) -> str:
    """Return p, which below a thousandth is as far as anything here can be told."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _within(max_block_share: str | None) -> str:
    return "" if max_block_share is None else f" within {max_block_share}"
