"""The best cuts of all, exactly, by dynamic programming.

With blocks of the layers i+1..j, and s(i, j) what such a block is worth, if it is allowed:

    V_0(-1) = 0
    V_k(j)  = max over i < j with an allowed block i+1..j of V_{k-1}(i) + s(i, j)
    result    V_K(L-1)

Where more than the best are wanted, each V_k(j) is a list of as many.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from fractions import Fraction

import numpy as np

__all__ = ["best_cuts", "exact"]


def exact(numbers: np.ndarray) -> np.ndarray:
    """Return numbers scaled to integers by a common power of two: nothing is rounded."""
    fractions = [Fraction(each) for each in numbers.ravel().tolist()]
    scale = max((each.denominator for each in fractions), default=1)
    scaled = np.empty(len(fractions), dtype=object)  # integers of any size
    scaled[:] = [int(each * scale) for each in fractions]
    return scaled.reshape(numbers.shape)


def best_cuts(
    num_layers: int, num_blocks: int, score: Callable[[int, int, int], int | None], count: int = 1
) -> list[tuple[int, list[int]]]:
    """Return the best cuts of which all blocks are allowed.

    Args:
        num_layers: L.
        num_blocks: K.
        score: What block k, from 0, is worth, given the boundary below it (-1: none) and the one at
            its end (L-1 is the end of the network); None if it is not allowed. Integers, so that
            sums are exact.
        count: How many are wanted.

    Returns:
        Total scores, the largest first, each with its K-1 cuts; equals in lexicographic order.
        Fewer than wanted if there are no more.
    """
    ways: dict[int, list[tuple[int, list[int]]]] = {-1: [(0, [])]}  # by last cut; losses are -V
    for k in range(num_blocks):
        last = k == num_blocks - 1
        ways = {
            end: heapq.nsmallest(
                count,
                (
                    (loss - gain, [*cuts, end])
                    for start, best in ways.items()
                    if best and start < end and (gain := score(k, start, end)) is not None
                    for loss, cuts in best
                ),
            )
            for end in range(num_layers - 1 if last else k, num_layers if last else num_layers - 1)
        }
    return [(-loss, cuts[:-1]) for loss, cuts in ways[num_layers - 1]]
