"""The cuts of which the largest block is smallest: the best pace of a pipeline.

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
from sedona_nni.decouplings.decoupling import check_num_blocks
from sedona_nni.teachers import NO_AUXILIARY

__all__ = ["balanced_cuts"]


def balanced_cuts(compute: Compute, num_blocks: int, aux: str = NO_AUXILIARY) -> list[int]:
    """Return the K-1 cuts of which the largest block has the least compute, see above.

    Args:
        compute: What layers and auxiliary networks cost.
        num_blocks: K.
        aux: The auxiliary network at each cut, which its block pays for; by default none.

    Raises:
        InputError: unless 1 <= K <= L, or if the compute lacks the auxiliary network.

    Examples:
        >>> from sedona_nni import Compute, balanced_cuts
        >>> compute = Compute(
        ...     backbone="mine", unit="macs", layers=[4, 1, 1, 2], auxiliary=[{"conv1": 1}] * 3
        ... )
        >>> balanced_cuts(compute, 2), balanced_cuts(compute, 3, "conv1")
        ([0], [0, 2])
    """
    num_layers = len(compute.layers)
    check_num_blocks(num_blocks, num_layers)
    if aux == NO_AUXILIARY:
        ends = [0] * num_layers
    else:
        compute.check_covers(compute.backbone, [aux])
        ends = [*(costs[aux] for costs in compute.auxiliary), 0]
    blocks = {
        (start, end): compute.between(start, end) + ends[end]
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
    return cuts
