"""What searches say of the space, against the truth.

Evidence for a decoupling is a sum over its cuts. It agrees with the truth as far as the two order
decouplings alike (rank correlation), and as what it points at is truly of a high rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.tabular.table import Table, rank_correlation
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult

__all__ = [
    "VARIANTS",
    "Agreement",
    "Judgement",
    "agreement",
    "between",
    "full_evidence",
    "judge",
    "search_cost",
]


@dataclass(frozen=True)
class Agreement:
    """How far evidence follows the truth about some decouplings.

    Attributes:
        correlation: Rank correlation of the two.
        where: That of the best score with the best truth at each set of cuts: does it say where to
            cut, whichever auxiliary networks are there?
        which: That among decouplings of the same cuts, the mean over all cuts: does it say which
            auxiliary networks? 0 where none have the same cuts.
        rank: True rank of what the evidence points at, of equals the first.
        regret: By how much the best of the decouplings is truly better than that.
        scores: The evidence, one number for each decoupling.
    """

    correlation: float
    where: float
    which: float
    rank: int
    regret: float
    scores: tuple[float, ...]

    @classmethod
    def of(
        cls, scores: Sequence[float], truths: Sequence[float], among: Sequence[Decoupling]
    ) -> Agreement:
        """Compare scores of some decouplings, the larger the better, with the truths about them."""
        alike: dict[tuple[int, ...], tuple[list[float], list[float]]] = {}  # by the cuts
        for score, truth, each in zip(scores, truths, among, strict=True):
            of_cuts = alike.setdefault(tuple(each.cuts), ([], []))
            of_cuts[0].append(score)
            of_cuts[1].append(truth)
        of_same_cuts = [rank_correlation(*pair) for pair in alike.values() if len(pair[0]) > 1]
        pick = truths[int(np.argmax(scores))]
        return cls(
            correlation=rank_correlation(scores, truths),
            where=rank_correlation(
                *zip(*((max(s), max(t)) for s, t in alike.values()), strict=True)
            ),
            which=fmean(of_same_cuts) if of_same_cuts else 0.0,
            rank=1 + sum(t > pick for t in truths),
            regret=max(truths) - pick,
            scores=tuple(scores),
        )


def between(found: Sequence[Agreement]) -> float | None:
    """Return the mean rank correlation of the scores of any two replicates, None of only one.

    Where it is about 0, a search says nothing that it would say again: no choice from its evidence
    can be better than chance, whatever the truth is.
    """
    pairs = [rank_correlation(a.scores, b.scores) for a, b in combinations(found, 2)]
    return fmean(pairs) if pairs else None


@dataclass(frozen=True)
class Judgement:
    """One search, judged.

    Attributes:
        pick: Its decoupling for K.
        test_accuracy: The truth about the pick; None if it was not trained.
        rank: True rank of the pick, from 1; likewise.
        count: Of how many.
        regret: True regret of the pick; likewise.
        agreement: How far its evidence follows the truth, see `full_evidence`.
        undecided_share: See `SearchResult.undecided_share`; None of a probing.
        trainings: What the search cost, in full trainings, if its file tells.
    """

    pick: Decoupling
    test_accuracy: float | None
    rank: int | None
    count: int
    regret: float | None
    agreement: Agreement
    undecided_share: float | None
    trainings: float | None

    def document(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return {**asdict(self), "pick": self.pick.model_dump(mode="json")}


def full_evidence(result: SearchOutcome) -> np.ndarray:
    """Return the evidence for each cut with each auxiliary network, shape (L-1, L-1, C), nats.

    As in `SearchOutcome.evidence`, [i+1, j, c] is what speaks for a cut at j with c if the next one
    below is at i. Of a relaxation that is log(a_j^loc / a_j^up) + log b_jc: summed over the cuts,
    up to a constant, the log-probability of a decoupling when each boundary is cut with probability
    a_j^loc and gets c with probability b_jc. Chosen by perturbation it is what each cut is worth.
    """
    if not isinstance(result, SearchResult):
        return result.evidence()
    if (worth := result.worth()) is not None:
        return _alike(worth)
    beta = np.array(result.beta)
    log_b = beta - np.logaddexp.reduce(beta, axis=1, keepdims=True)
    return _alike(result.margins()[:, None] + log_b)


def _alike(worth: np.ndarray) -> np.ndarray:
    """Return what cuts are worth, shape (L-1, C), whatever is below them."""
    return np.tile(worth, (len(worth), 1, 1))


def _by_block(shortfalls: np.ndarray) -> np.ndarray:
    """Weigh shortfalls, shape (L-1, C), by the share of layers between a cut and the next below."""
    j = np.arange(len(shortfalls))
    learning = np.maximum(j - j[:, None] + 1, 0)
    return np.asarray(-learning[:, :, None] / (len(shortfalls) + 1) * shortfalls)


def search_cost(outcome: SearchOutcome) -> float | None:
    """Return what a search took of a processor, in trainings without cuts.

    The training is the one that was timed after it on the same machine, see
    `benchmarks.tabular.search`; None if the outcome does not tell.
    """
    told = outcome.provenance
    if "processor_s" not in told or "training_s" not in told:
        return None
    return float(told["processor_s"]) / float(told["training_s"])


VARIANTS: dict[str, Callable[[ProbeResult], np.ndarray]] = {
    "local loss": lambda result: _alike(-np.array(result.losses)),
    "local loss, smoothed": lambda result: _alike(-result.smoothed()),
    "shortfall against the best": lambda result: _by_block(
        result.smoothed() - result.smoothed().min()
    ),
    "and against the undivided": full_evidence,
    "the same, not smoothed": lambda result: _by_block(
        np.array(result.losses) - min(result.undivided, np.min(result.losses))
    ),
    "the same, all layers below": lambda result: _alike(
        _by_block(result.shortfalls())[0]  # as if there were no other cut
    ),
    "layers alone, nothing probed": lambda result: _by_block(np.ones_like(result.losses)),
}
"""What could be made of a probing: from its plain losses on, step by step, to the evidence that it
has (the fourth), and what that is worth without smoothing, or if each cut were weighed by all
layers below it instead of those of its block. The last is a control: the lower, the better."""


def agreement(
    of_cuts: np.ndarray,
    aux_choices: Sequence[str],
    among: Sequence[Decoupling],
    truths: Sequence[float],
) -> Agreement:
    """Compare evidence with the truth.

    Args:
        of_cuts: Evidence, shape (L-1, L-1, C), see `full_evidence`.
        aux_choices: The C auxiliary networks.
        among: Decouplings.
        truths: About each of them.
    """
    choices = list(aux_choices)
    totals = [
        math.fsum(
            of_cuts[i + 1, j, choices.index(c)]
            for i, j, c in zip([-1, *each.cuts], each.cuts, each.aux, strict=False)
        )
        for each in among
    ]
    return Agreement.of(totals, truths, among)


def judge(
    table: Table,
    result: SearchOutcome,
    num_blocks: int,
    max_block_share: str | None = None,
) -> Judgement:
    """Judge a search by a table.

    Raises:
        InputError: if it is of another backbone, or no decoupling within the bound was trained.
    """
    among = table.decouplings(num_blocks, max_block_share)
    truths = [table.truth(each) for each in among]
    bound = table.bound(max_block_share)
    table.compute.check_covers(result.backbone, result.aux_choices)
    pick = discretise(result, num_blocks, bound)
    known = pick in among
    return Judgement(
        pick,
        table.truth(pick) if known else None,
        table.rank(pick, among) if known else None,
        len(among),
        table.regret(pick, among) if known else None,
        agreement(full_evidence(result), result.aux_choices, among, truths),
        result.undecided_share if isinstance(result, SearchResult) else None,
        result.provenance.get("trainings"),
    )
