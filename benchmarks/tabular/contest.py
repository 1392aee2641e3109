"""Searches and strategies at equal cost, judged by a table.

Each may spend the processor time of a number of trainings without cuts, all of its search included.
What a search leaves of that is spent on its *leaders*, the decouplings of the most evidence, one
training each while they fit; its pick is the one that validates best, or its first leader if none
fits. Strategies without search pick as in `benchmarks.tabular.race`. What counts is the truth about
the pick, not the training that it was picked by.

Contenders are compared by the Mann-Whitney test on the regrets of their replicates, two-sided, and
the p of all comparisons in one table are corrected after Holm: sorted, the k-th least of m times
m - k + 1, and never below one before it.
Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.tabular.race import RACERS, race
from benchmarks.tabular.table import Table
from sedona_nni.decouplings.choice import leaders
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError

__all__ = ["Contender", "contest", "holm", "p_values"]


@dataclass(frozen=True)
class Contender:
    """What became of one contender.

    Attributes:
        name: Its name.
        cost: Mean cost of its search, in trainings without cuts; 0 of what does not search.
        regrets: True regret of each replicate's pick; none of a search that costs too much.
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
) -> list[Contender]:
    """Let searches and strategies pick at equal cost.

    Args:
        table: It must hold all decouplings into K blocks, with their processor time.
        found: What each search found, one outcome per replicate, which says its ``processor_s``.
        budget: In trainings without cuts.
        num_blocks: K.
        max_block_share: Only decouplings within this bound.
        repeats: Replicates of each strategy that does not search.
        seed: Of everything that is drawn.

    Returns:
        The searches, the strategies, and uniform cuts with each auxiliary network, of which there
        is one replicate.

    Raises:
        InputError: if an outcome does not say its cost, or all cost more than there is to spend.
    """
    table.check_complete(num_blocks)
    among = table.decouplings(num_blocks, max_block_share)
    regret = {each: table.regret(each, among) for each in among}
    contenders = []
    for name, outcomes in found.items():
        rng, costs = np.random.default_rng(seed), [_cost(table, name, each) for each in outcomes]
        regrets = [
            regret[_pick(table, outcome, num_blocks, max_block_share, budget - cost, rng)]
            for outcome, cost in zip(outcomes, costs, strict=True)
            if max(costs) <= budget
        ]
        contenders.append(Contender(name, float(np.mean(costs)), tuple(regrets)))
    if not any(each.regrets for each in contenders):
        raise InputError.rule("--budget", "must be at least what a search costs", budget)
    for name in RACERS:
        raced = race(
            table,
            name,
            [budget],
            num_blocks=num_blocks,
            repeats=repeats,
            max_block_share=max_block_share,
            seed=seed,
        )
        contenders.append(Contender(name, 0.0, tuple(raced[:, 0].tolist())))
    cuts = uniform_cuts(table.num_boundaries + 1, num_blocks)
    for aux in table.aux_choices:
        uniform = Decoupling(backbone=table.task.backbone, cuts=cuts, aux=[aux] * len(cuts))
        if uniform in regret:
            contenders.append(Contender(f"uniform:{aux}", 0.0, (regret[uniform],)))
    return contenders


def _cost(table: Table, name: str, outcome: SearchOutcome) -> float:
    cost = table.cost(outcome)
    if cost is None:
        raise InputError(f"provenance.processor_s: must be in what {name} found")
    return cost


def _pick(
    table: Table,
    outcome: SearchOutcome,
    num_blocks: int,
    max_block_share: str | None,
    left: float,
    rng: np.random.Generator,
) -> Decoupling:
    """Return the leader that validates best of those that what is left allows to train."""
    bound, seconds = table.bound(max_block_share), left * table.training_s
    everyone = len(table.decouplings(num_blocks, max_block_share))
    first, *others = leaders(outcome, num_blocks, everyone, bound)
    pick, best = first, -1.0
    for leader in (first, *others):
        training = table.draw(leader, rng)
        assert training.processor_s is not None
        seconds -= training.processor_s
        if seconds < 0:
            break
        if training.validation_accuracy > best:
            pick, best = leader, training.validation_accuracy
    return pick


def p_values(contenders: Sequence[Contender], reference: str) -> dict[str, float]:
    """Return p of each other contender's difference from one of them, corrected after Holm.

    Those with fewer than two replicates are not tested, and nothing where the reference has fewer.
    """
    by_name = {each.name: each.regrets for each in contenders if len(each.regrets) > 1}
    if (own := by_name.pop(reference, None)) is None:
        return {}
    names = [*by_name]
    plain = [float(mannwhitneyu(own, by_name[name]).pvalue) for name in names]
    return dict(zip(names, holm(plain), strict=True))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number, see the top of this file."""
    order = np.argsort(p, kind="stable")
    count = len(order)
    scaled = [min(1.0, p[place] * (count - k)) for k, place in enumerate(order)]
    corrected = np.empty(count)
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.tolist()
