"""The cuts of which the largest block is smallest: the best pace of a pipeline, or least memory.

Notation (L layers, K blocks; see `decouplings.compute` for the compute of a block):
    C(i, j)   compute of the block of the layers i+1..j, with the auxiliary network at boundary j
Wanted are the K-1 cuts with the smallest maximum of C. Exact: every C(i, j) is tried as a limit, by
bisection, and `sedona_nni.decouplings.best_cuts` says whether some cuts keep to it. Of the cuts
that keep to the smallest limit, those with the smallest sum of squares of C are taken, so that the
other blocks are balanced, too; of equals the first in lexicographic order.
"""

from __future__ import annotations

import bisect
import itertools

from sedona_nni.decouplings.best_cuts import best_cuts
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import check_plain

__all__ = ["balanced_decoupling"]


def balanced_decoupling(costs: Compute, num_blocks: int, aux: str) -> Decoupling:
    """Return the most balanced decoupling into K blocks, the same auxiliary network at each cut.

    Args:
        costs: Of layers and auxiliary networks: MACs, times or memory.
        num_blocks: K.
        aux: Name of the auxiliary network, which its block pays for; or that of none.

    Raises:
        InputError: unless 1 <= K <= L, or if the costs lack the auxiliary network, or the cut is
            not a plain one.

    Examples:
        >>> from sedona_nni import Compute, balanced_decoupling
        >>> costs = Compute(
        ...     backbone="mine", unit="macs", layers=[3, 1, 1, 1],
        ...     auxiliary=[{"conv1": 1}, {"conv1": 1}, {"conv1": 1}],
        ... )
        >>> balanced_decoupling(costs, 2, "conv1").cuts
        [0]
    """
    num_layers = len(costs.layers)
    check_num_blocks(num_blocks, num_layers)
    check_plain([aux], "in balanced blocks")  # this knows nothing of their costs above
    costs.check_covers(costs.backbone, {aux} - {NO_AUXILIARY})
    blocks = {
        (start, end): costs.block(start, end, aux)
        for start, end in itertools.combinations(range(-1, num_layers), 2)
    }

    def within(limit: int) -> list[tuple[int, list[int]]]:
        def score(_: int, start: int, end: int) -> int | None:
            cost = blocks[start, end]
            return -(cost**2) if cost <= limit else None

        return best_cuts(num_layers, num_blocks, score)

    limits = sorted(set(blocks.values()))
    smallest = bisect.bisect_left(limits, True, key=lambda limit: bool(within(limit)))
    ((_, cuts),) = within(limits[smallest])
    return Decoupling(backbone=costs.backbone, cuts=cuts, aux=[aux] * len(cuts))
