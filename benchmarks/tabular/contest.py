"""Searches and strategies at equal cost, judged by a table.

Each may spend the processor time of a number of trainings without cuts, all of its search included.
What a search leaves of that is spent on its *leaders*, the decouplings of the most evidence, one
training each while they fit; its pick is the one that validates best, or its first leader if none
fits. Which of a leader's trainings it sees is chance, so what counts of a search is its expected
regret: with leaders i, each of n_i trainings that validate with v,

    sum_i r_i 1/n_i sum_v prod_(j != i) P(leader j validates with less than v)

with r_i the regret of leader i; of equals the first leader is picked. A control's scores are spent
in the same way, with leaders of different cuts, too, and equals in an order by chance. Strategies
without search pick as in `benchmarks.tabular.race`; those that ask at random at first are left out
where the budget cannot get past that, as they are random search. The truth about a pick includes
the training that it was picked by, which flatters whoever trains, the more the more is trained,
unless other truths are given.

Contenders are compared by Welch's t-test on the regrets of their replicates, two-sided, and the p
of all comparisons in one table are corrected after Holm: sorted, the k-th least of m times
m - k + 1, and never below one before it. That says what other searches and draws might bring; the
table's truths are taken as they are.
Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import ttest_ind_from_stats

from benchmarks.tabular.evidence import search_cost
from benchmarks.tabular.queries import RANDOM_START
from benchmarks.tabular.race import RACERS, affordable, race
from benchmarks.tabular.table import Table
from sedona_nni.decouplings.choice import leaders
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError

__all__ = ["Contender", "contest", "follow", "holm", "p_values"]


_ROUNDING = 1e-9  # equal regrets differ in their last digits


@dataclass(frozen=True)
class Contender:
    """What became of one contender.

    Attributes:
        name: Its name.
        cost: Mean cost of its search, in trainings without cuts; 0 of what does not search.
        regrets: True regret of each replicate's pick, of a search the expected one; none of a
            search of which a replicate costs too much.
    """

    name: str
    cost: float
    regrets: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean regret."""
        return float(np.mean(self.regrets))


def contest(
    table: Table,
    found: Mapping[str, Sequence[SearchOutcome]],
    budget: float,
    *,
    num_blocks: int = 2,
    max_block_share: str | None = None,
    repeats: int = 100,
    seed: int = 0,
    truths: Table | None = None,
) -> list[Contender]:
    """Let searches and strategies pick at equal cost.

    Args:
        table: It must hold all decouplings into K blocks, with their clock.
        found: What each search found, one outcome per replicate, which says what it cost.
        budget: In trainings without cuts.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        repeats: Replicates of each strategy that does not search.
        seed: Of what these draw.
        truths: What says how good a pick is; by default the table.

    Returns:
        The searches, the strategies that are more than their random start, and uniform cuts with
        each auxiliary network, of which there is one replicate.

    Raises:
        InputError: if an outcome does not say its cost, or all cost more than there is to spend.
    """
    table.check_complete(num_blocks)
    among = table.decouplings(num_blocks, max_block_share)
    regret = {each: (truths or table).regret(each, among) for each in among}
    everyone, bound = len(table.decouplings(num_blocks)), table.bound(max_block_share)
    contenders = []
    for name, outcomes in found.items():
        costs = [_cost(name, each) for each in outcomes]
        regrets = [
            _expected_regret(table, leaders(outcome, num_blocks, everyone, bound), left, regret)
            for outcome, left in zip(outcomes, (budget - cost for cost in costs), strict=True)
            if max(costs) <= budget
        ]
        contenders.append(Contender(name, float(np.mean(costs)), tuple(regrets)))
    if not any(each.regrets for each in contenders):
        raise InputError.rule("--budget", "must be at least what a search costs", budget)
    paid = affordable(table, among, budget)
    for name in (each for each in RACERS if RANDOM_START.get(each, -1) < paid):
        raced = race(
            table,
            name,
            [budget],
            num_blocks=num_blocks,
            repeats=repeats,
            max_block_share=max_block_share,
            seed=seed,
            truths=truths,
        )
        contenders.append(Contender(name, 0.0, tuple(raced[:, 0].tolist())))
    cuts = uniform_cuts(table.num_boundaries + 1, num_blocks)
    for aux in table.aux_choices:
        uniform = Decoupling(backbone=table.task.backbone, cuts=cuts, aux=[aux] * len(cuts))
        if uniform in regret:
            contenders.append(Contender(f"uniform:{aux}", 0.0, (regret[uniform],)))
    return contenders


def follow(
    table: Table,
    scores: Mapping[str, Sequence[Sequence[float]]],
    budget: float,
    *,
    repeats: int = 100,
    seed: int = 0,
) -> list[Contender]:
    """Let controls pick decouplings into two blocks at equal cost, as searches do in `contest`.

    Args:
        table: It must hold all decouplings into two blocks, with their clock.
        scores: Of each control, a row for each replicate and in it a score for each of
            `Table.decouplings`, the larger the better.
        budget: In trainings without cuts.
        repeats: So many orders are drawn where scores are equal.
        seed: Of these.

    Returns:
        A contender for each, with a replicate for each row: its regret, or where there are equals
        the mean over their orders.
    """
    table.check_complete(2)
    among = table.decouplings(2)
    regret = {each: table.regret(each, among) for each in among}
    rng = np.random.default_rng(seed)

    def expected(row: Sequence[float]) -> float:
        found = []
        for _ in range(1 if len(set(row)) == len(row) else repeats):
            order = sorted(rng.permutation(len(among)).tolist(), key=lambda i: -row[i])
            first: dict[int, Decoupling] = {}  # of each cut
            for i in order:
                first.setdefault(among[i].cuts[0], among[i])
            found.append(_expected_regret(table, [*first.values()], budget, regret))
        return fmean(found)

    return [Contender(name, 0.0, tuple(map(expected, rows))) for name, rows in scores.items()]


def _cost(name: str, outcome: SearchOutcome) -> float:
    cost = search_cost(outcome)
    if cost is None:
        raise InputError(f"provenance.training_s: must be in what {name} found")
    return cost


def _expected_regret(
    table: Table,
    found: Sequence[Decoupling],
    left: float,
    regret: Mapping[Decoupling, float],
) -> float:
    """Return the regret of a pick among the leaders that what is left pays for, see the top."""
    clock = np.cumsum([table.cost(each) for each in found])
    trained = found[: int((clock <= left).sum())]
    if not trained:
        return regret[found[0]]
    validated = [
        np.array([t.validation_accuracy for t in table[each].trainings]) for each in trained
    ]
    expected = 0.0
    for i, (leader, own) in enumerate(zip(trained, validated, strict=True)):
        for value in own:
            earlier = [float((other < value).mean()) for other in validated[:i]]
            later = [float((other <= value).mean()) for other in validated[i + 1 :]]
            expected += regret[leader] * math.prod([*earlier, *later]) / len(own)
    return expected


def p_values(contenders: Sequence[Contender], reference: str) -> dict[str, float]:
    """Return p of each other contender's difference from one of them, corrected after Holm.

    Those with fewer than two replicates are not tested, and nothing where the reference has fewer;
    where none of the two varies, nothing can be told, and p is 1.
    """
    by_name = {each.name: each.regrets for each in contenders if len(each.regrets) > 1}
    if (own := by_name.pop(reference, None)) is None:
        return {}
    names = [*by_name]
    plain = [_welch(own, by_name[name]) for name in names]
    return dict(zip(names, holm(plain), strict=True))


def _welch(first: Sequence[float], second: Sequence[float]) -> float:
    stats = [(np.mean(each), np.std(each, ddof=1), len(each)) for each in (first, second)]
    if max(deviation for _, deviation, _ in stats) < _ROUNDING:
        return 1.0
    return float(ttest_ind_from_stats(*stats[0], *stats[1], equal_var=False).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number, see the top of this file."""
    order = np.argsort(p, kind="stable")
    count = len(order)
    scaled = [min(1.0, p[place] * (count - k)) for k, place in enumerate(order)]
    corrected = np.empty(count)
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.tolist()
