"""What a search of SEDONA says of the space, against the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.tabular.table import Table, rank_correlation
from sedona_nni.balance import discretise
from sedona_nni.decoupling import Decoupling, SearchResult

__all__ = ["Judgement", "full_evidence", "judge"]


@dataclass(frozen=True)
class Judgement:
    """One search, judged.

    Attributes:
        pick: Its decoupling for K.
        rank: True rank of the pick, from 1.
        count: Of how many.
        regret: True regret of the pick.
        cut_correlation: Rank correlation of `sedona_nni.balance.evidence`, which leaves out which
            auxiliary networks there are, with the truth, over all decouplings.
        full_correlation: That of `full_evidence`.
        undecided_share: See `SearchResult.undecided_share`.
    """

    pick: Decoupling
    rank: int
    count: int
    regret: float
    cut_correlation: float
    full_correlation: float
    undecided_share: float

    def document(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return {**asdict(self), "pick": self.pick.model_dump(mode="json")}


def full_evidence(result: SearchResult, decoupling: Decoupling) -> float:
    """Return the evidence for a decoupling with its auxiliary networks, nats.

    That is the sum over its cuts i, with auxiliary network c, of log(a_i^loc / a_i^up) + log b_ic:
    up to a constant, the log-probability of the decoupling when each boundary is cut with
    probability a_i^loc and gets c with probability b_ic.
    """
    total = 0.0
    for cut, name in zip(decoupling.cuts, decoupling.aux, strict=True):
        beta = np.array(result.beta[cut])
        log_b = beta - np.logaddexp.reduce(beta)
        total += result.margins()[cut] + log_b[result.aux_choices.index(name)]
    return float(total)


def judge(
    table: Table, result: SearchResult, num_blocks: int, max_block_share: str | None = None
) -> Judgement:
    """Judge a search by a table.

    Raises:
        InputError: if the pick is not in the table.
    """
    among = table.decouplings(num_blocks, max_block_share)
    truths = [table.truth(each) for each in among]
    by_cuts = [float(sum(result.margins()[each.cuts])) for each in among]
    by_all = [full_evidence(result, each) for each in among]
    pick = discretise(result, num_blocks, table.bound(max_block_share))
    return Judgement(
        pick,
        table.rank(pick, among),
        len(among),
        table.regret(pick, among),
        rank_correlation(by_cuts, truths),
        rank_correlation(by_all, truths),
        result.undecided_share,
    )
