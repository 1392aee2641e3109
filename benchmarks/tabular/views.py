"""What a table of trainings says, and what it says of strategies and searches: views of files.

Nothing is measured here: the same files give the same values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev, variance

from benchmarks.tabular.ablation import ablate as ablated
from benchmarks.tabular.contest import contest as contested
from benchmarks.tabular.contest import p_values
from benchmarks.tabular.controls import controls, zero_costs
from benchmarks.tabular.evidence import VARIANTS, Agreement, Judgement, agreement, probing_of
from benchmarks.tabular.evidence import judge as judged
from benchmarks.tabular.probe_losses import ProbeLosses
from benchmarks.tabular.race import RACERS
from benchmarks.tabular.race import race as raced
from benchmarks.tabular.score import STRATEGIES
from benchmarks.tabular.score import score as scored
from benchmarks.tabular.table import Field, Table, rank_correlation
from benchmarks.view import Table as Shown
from benchmarks.view import View
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.documents import load_outcome
from sedona_nni.searches.probing.result import ProbeResult

__all__ = ["ablate", "contest", "cover", "judge", "race", "score", "show", "signs", "zero_cost"]

_AGREEMENT = ("rank correlation", "least", "mean rank", "regret %", "true ranks of picks")
_SHOWN_QUERIES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28)
_KINDS = (  # what is seen of a training cut short: name, block, variant of the evidence
    ("error of the head", -1, "local loss"),
    ("error of the head, smoothed", -1, "local loss, smoothed"),
    ("local error", 0, "local loss"),
    ("evidence by local errors", 0, "and against the undivided"),
)


def cover(table: Path) -> View:
    """Return what a table holds, which may be growing: by K how many decouplings were trained and
    with how many seeds, best and worst truth, the standard deviation between seeds, and the cost.

    The standard deviation is the square root of the mean variance within decouplings; of the
    difference of two truths with n seeds each it leaves the standard error sqrt(2 / n) times it.

    Args:
        table: The table's file.
    """
    loaded = Table.load(table)
    results, rows = [], []
    for num_blocks in sorted({entry.num_blocks for entry in loaded.entries}):
        among = loaded.decouplings(num_blocks)
        entries = [loaded[each] for each in among]
        accuracies = [[t.test_accuracy for t in entry.trainings] for entry in entries]
        spread = math.sqrt(fmean([variance(each) for each in accuracies if len(each) > 1] or [0]))
        least = min(map(len, accuracies))
        truths = [loaded.truth(each) for each in among]
        seconds = [t.processor_s for entry in entries for t in entry.trainings if t.processor_s]
        row = {
            "num_blocks": num_blocks,
            "decouplings": len(among),
            "of": loaded.size(num_blocks),
            "trainings": sum(map(len, accuracies)),
            "seeds": least,
            "best": max(truths),
            "worst": min(truths),
            "standard_deviation": spread,
            "error_of_difference": spread * math.sqrt(2 / least),
            "processor_s": fmean(seconds) if seconds else None,
        }
        results.append(row)
        rows.append(
            [
                f"{num_blocks}",
                f"{row['decouplings']} of {row['of']}",
                f"{row['trainings']}",
                f"{least}",
                _percent(row["best"]),
                _percent(row["worst"]),
                _percent(spread),
                _percent(row["error_of_difference"]),
                "–" if row["processor_s"] is None else f"{row['processor_s']:.0f}",
            ]
        )
    headings = ["K", "trained", "trainings", "seeds", "best %", "worst %", "s %", "error %"]
    headings.append("seconds")
    title = (
        f"{loaded.task.backbone} on {loaded.task.dataset}, {loaded.steps} steps: decouplings "
        "trained, with at least so many seeds; standard deviation between seeds (s), standard "
        "error of the difference of two truths; seconds of a core for a training"
    )
    return View({"cover": results}, [Shown(title, headings, rows)])


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


def score(
    table: Path,
    num_blocks: int = 2,
    max_block_share: str | None = None,
    strategies: Sequence[str] = tuple(STRATEGIES),
    queries: int = 12,
    repeats: int = 100,
    seed: int = 0,
) -> View:
    """Return rank and regret of the picks of strategies, by the trainings that they may see.

    Args:
        table: The table's file.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        strategies: Names of `benchmarks.tabular.score.STRATEGIES`.
        queries: Trainings that a strategy may see.
        repeats: Picks per strategy.
        seed: Of everything that is drawn.

    Raises:
        InputError: if there is no strategy of a name.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise InputError.rule("--strategy", f"must be one of {', '.join(STRATEGIES)}", name)
    loaded = Table.load(table)
    count = len(loaded.decouplings(num_blocks, max_block_share))
    shown = [n for n in _SHOWN_QUERIES if n <= min(queries, count)]
    results, ranks, regrets = {}, [], []
    for name in strategies:
        found = scored(
            loaded,
            name,
            num_blocks,
            repeats=repeats,
            num_queries=queries,
            max_block_share=max_block_share,
            seed=seed,
        )
        results[name] = {
            "mean_rank": found.ranks.mean(axis=0).round(3).tolist(),
            "mean_regret": found.regrets.mean(axis=0).round(6).tolist(),
            "among_top_3": found.among_top(3).tolist(),
        }
        ranks.append([name, *(f"{found.ranks.mean(axis=0)[n - 1]:.1f}" for n in shown)])
        regrets.append([name, *(f"{100 * found.regrets.mean(axis=0)[n - 1]:.2f}" for n in shown)])
    headings = ["after n trainings", *map(str, shown)]
    title = f"Mean true rank of the pick, of {count}{_within(max_block_share)}"
    return View(
        {"decouplings": count, "strategies": results},
        [
            Shown(title, headings, ranks),
            Shown("Mean regret of the pick, % of test accuracy", headings, regrets),
        ],
    )


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
        f"without cuts, {loaded.training_s:.0f} s each{_within(max_block_share)}"
    )
    headings = ["after n trainings", *(f"{budget:g}" for budget in clocks)]
    return View({"budgets": clocks, "strategies": results}, [Shown(title, headings, rows)])


def contest(
    table: Path,
    found: Path,
    budget: float = 4,
    num_blocks: int = 2,
    max_block_share: str | None = None,
    repeats: int = 100,
    seed: int = 0,
    reference: str | None = None,
) -> View:
    """Return what searches and strategies pick at equal cost, and which differ.

    Args:
        table: The table's file.
        found: A folder with one for each search, of whose outcomes each is a replicate.
        budget: In trainings without cuts.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        repeats: Replicates of each strategy that does not search.
        seed: Of everything that is drawn.
        reference: What the others are compared with; by default the first search.

    Raises:
        InputError: if the folder holds no outcome.
    """
    loaded = Table.load(table)
    outcomes = {
        folder.name: [load_outcome(path) for path in sorted(folder.glob("*.json"))]
        for folder in sorted(each for each in found.iterdir() if each.is_dir())
    }
    outcomes = {name: each for name, each in outcomes.items() if each}
    if not outcomes:
        raise InputError.rule("FOUND", "must hold folders with outcomes of searches", found)
    contenders = contested(
        loaded,
        outcomes,
        budget,
        num_blocks=num_blocks,
        max_block_share=max_block_share,
        repeats=repeats,
        seed=seed,
    )
    reference = reference or contenders[0].name
    p = p_values(contenders, reference)
    rows = [
        [
            each.name,
            f"{len(each.regrets)}",
            f"{each.cost:.2f}",
            f"{100 * each.mean:.2f}",
            f"{100 * stdev(each.regrets):.2f}" if len(each.regrets) > 1 else "–",
            f"{p[each.name]:.3g}" if each.name in p else "–",
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
    return View(results, [Shown(title, headings, rows)])


def judge(
    results: Sequence[Path],
    table: Path,
    num_blocks: int = 2,
    max_block_share: str | None = None,
) -> View:
    """Return rank and regret of what searches picked, and how their evidence follows the truth.

    Beside them what controls say, which no search has made, see `benchmarks.tabular.controls`; and
    of probings what is left with less than their whole evidence.

    Args:
        results: search-result.json of searches, SEDONA's or probings.
        table: The table's file.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
    """
    loaded = Table.load(table)
    outcomes = [load_outcome(path) for path in results]
    verdicts = [judged(loaded, each, num_blocks, max_block_share) for each in outcomes]
    among = loaded.decouplings(num_blocks, max_block_share)
    rows = [
        [
            path.stem,
            each.pick.key.removeprefix(f"{loaded.task.backbone} "),
            _percent(each.test_accuracy),
            "–" if each.rank is None else str(each.rank),
            _percent(each.regret),
            f"{each.cut_correlation:.2f}",
            f"{each.full_correlation:.2f}",
            "–" if each.trainings is None else f"{each.trainings:.2f}",
        ]
        for path, each in zip(results, verdicts, strict=True)
    ]
    if len(verdicts) > 1 and all(each.rank is not None for each in verdicts):
        rows.append(_means(verdicts))
    headings = ["search", "pick", "test %", "rank", "regret %", "r cuts", "r", "cost"]
    title = (
        f"Picked of {len(among)} that were trained, K = {num_blocks}{_within(max_block_share)}; "
        "rank correlation of the evidence with the truth, for cuts alone (r cuts) and with "
        "auxiliary networks (r); cost in trainings"
    )
    tables = [Shown(title, headings, rows)]

    truths = [loaded.truth(each) for each in among]
    without = {
        name: [Agreement.of(scores, truths)] for name, scores in controls(loaded, among).items()
    }
    without["a training of each"] = _trainings(loaded, among)
    title = f"Without any search, of {len(among)} trained decouplings"
    rows = [_agreements(name, found) for name, found in without.items()]
    tables.append(Shown(title, ["control", *_AGREEMENT], rows))
    probings = [each for each in outcomes if isinstance(each, ProbeResult)]
    variants = {
        name: [agreement(variant(each), each.aux_choices, among, truths) for each in probings]
        for name, variant in VARIANTS.items()
        if probings
    }
    if probings:
        title = f"What else could be made of the probings, of {len(among)} trained decouplings"
        rows = [_agreements(name, found) for name, found in variants.items()]
        tables.append(Shown(title, ["evidence", *_AGREEMENT], rows))
    return View(
        {
            "searches": [each.document() for each in verdicts],
            "controls": {name: [asdict(each) for each in row] for name, row in without.items()},
            "variants": {name: [asdict(each) for each in row] for name, row in variants.items()},
        },
        tables,
    )


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
        f"{seen[0].schedule} rate; cost in trainings without cuts, by processor time"
    )
    rows = [[*_agreements(name, each), f"{cost:.2f}"] for name, (each, cost) in found.items()]
    results = {
        name: {"cost": cost, "agreements": [asdict(each) for each in agreements]}
        for name, (agreements, cost) in found.items()
    }
    return View({"ablation": results}, [Shown(title, ["form", *_AGREEMENT, "cost"], rows)])


def zero_cost(
    table: Path, seeds: Sequence[int], num_blocks: int = 2, max_block_share: str | None = None
) -> View:
    """Return how well zero-cost scores of the lowest blocks follow the truth.

    Args:
        table: The table's file.
        seeds: Of initial weights and batch, one score of each.
        num_blocks: K, at least 2.
        max_block_share: Only decouplings within this bound.
    """
    loaded = Table.load(table)
    among = loaded.decouplings(num_blocks, max_block_share)
    truths = [loaded.truth(each) for each in among]
    scores = [zero_costs(loaded, among, seed) for seed in seeds]
    found = {name: [Agreement.of(each[name], truths) for each in scores] for name in scores[0]}
    title = f"Zero-cost scores, of {len(among)} trained decouplings{_within(max_block_share)}"
    rows = [_agreements(name, agreements) for name, agreements in found.items()]
    results = {name: [asdict(each) for each in agreements] for name, agreements in found.items()}
    return View({"zero_cost": results}, [Shown(title, ["score", *_AGREEMENT], rows)])


def signs(table: Path, max_block_share: str | None = None) -> View:
    """Return how well the table's own trainings, cut short, follow the truth (K = 2).

    Each seed is compared with the truth of the others.

    Args:
        table: The table's file.
        max_block_share: Only decouplings within this bound.
    """
    loaded = Table.load(table)
    loaded.check_complete(2)
    among = loaded.decouplings(2, max_block_share)
    seeds = [training.seed for training in loaded[among[0]].trainings]
    truths = {seed: [loaded.truth(each, without=seed) for each in among] for seed in seeds}
    epochs = loaded.train.epochs
    results, rows = [], []
    for epoch in range(1, epochs + 1):
        for name, block, variant in _KINDS:
            seen = {
                seed: VARIANTS[variant](probing_of(loaded, seed, epoch, block)) for seed in seeds
            }
            found = [agreement(seen[s], loaded.aux_choices, among, truths[s]) for s in seeds]
            agreements = [asdict(each) for each in found]
            results.append({"epoch": epoch, "evidence": name, "agreements": agreements})
            rows.append(_agreements(f"epoch {epoch} of {epochs}, {name}", found))
    title = (
        f"Early signs against the truth of other seeds, of {len(among)} decouplings"
        f"{_within(max_block_share)}; an epoch of all costs {len(among) / epochs:g} trainings"
    )
    return View({"signs": results}, [Shown(title, ["evidence", *_AGREEMENT], rows)])


def _trainings(table: Table, among: Sequence[Decoupling]) -> list[Agreement]:
    """Compare each seed's validation accuracies, of which a strategy would pick the best, with the
    truth of the other seeds; nothing if there is one seed alone."""
    seen = table.by_seed(among, "validation_accuracy")
    if len(seen) < 2:
        return []
    return [
        Agreement.of(accuracies, [table.truth(each, without=seed) for each in among])
        for seed, accuracies in seen.items()
    ]


def _means(ranked: Sequence[Judgement]) -> list[str]:
    n = len(ranked)
    return [
        "mean",
        "",
        _percent(sum(each.test_accuracy or 0 for each in ranked) / n),
        f"{sum(each.rank or 0 for each in ranked) / n:.1f}",
        _percent(sum(each.regret or 0 for each in ranked) / n),
        f"{sum(each.cut_correlation for each in ranked) / n:.2f}",
        f"{sum(each.full_correlation for each in ranked) / n:.2f}",
        "",
    ]


def _agreements(name: str, found: Sequence[Agreement]) -> list[str]:
    """Return a row for readers, see `_AGREEMENT`."""
    if not found:
        return [name, *["–"] * len(_AGREEMENT)]
    correlations = [each.correlation for each in found]
    ranks = [each.rank for each in found]
    return [
        name,
        f"{sum(correlations) / len(found):.2f}",
        f"{min(correlations):.2f}",
        f"{sum(ranks) / len(found):.1f}",
        f"{100 * sum(each.regret for each in found) / len(found):.2f}",
        " ".join(map(str, ranks)),
    ]


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _within(max_block_share: str | None) -> str:
    return "" if max_block_share is None else f" within {max_block_share}"
