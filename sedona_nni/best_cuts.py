"""The best cuts of all, exactly, by dynamic programming.

With blocks of the layers i+1..j, s(i, j) what a cut at j is worth if the next one below is at i,
and C(i, j) the compute of such a block:

    V_0(-1) = 0
    V_k(j)  = max over i < j with C(i, j) <= limit of V_{k-1}(i) + s(i, j)
    result    max over i with C(i, L-1) <= limit of V_{K-1}(i)

Where more than the best are wanted, each V_k(j) is a list of as many.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

__all__ = ["best_cuts", "exact"]


def exact(numbers: np.ndarray) -> list[list[int]]:
    """Return a matrix scaled to integers by a common power of two: nothing is rounded."""
    fractions = [[Fraction(each) for each in row] for row in numbers.tolist()]
    scale = max((each.denominator for row in fractions for each in row), default=1)
    return [[int(each * scale) for each in row] for row in fractions]


def best_cuts(
    layers: Sequence[int],
    ends: Sequence[int],
    num_blocks: int,
    limit: int,
    score: Callable[[int, int, int], int],
    count: int = 1,
) -> list[tuple[int, list[int]]]:
    """Return the best cuts of which all blocks respect the limit.

    Args:
        layers: Compute of each layer, L of them.
        ends: What ending a block after layer i adds, L of them; the last is 0.
        num_blocks: K.
        limit: The most compute of a block.
        score: What cut k, from 0, is worth, given the cut below it (-1: none) and its own boundary;
            integers, so that sums are exact.
        count: How many are wanted.

    Returns:
        Total scores, the largest first, each with its K-1 cuts; equals in lexicographic order.
        Fewer than wanted if there are no more.
    """
    sums = [0, *itertools.accumulate(layers)]
    last_layer = len(layers) - 1

    def joined(
        k: int, end: int, ways: dict[int, list[tuple[int, list[int]]]]
    ) -> list[tuple[int, list[int]]]:
        def gain(start: int) -> int:
            return score(k, start, end) if end < last_layer else 0

        return heapq.nsmallest(
            count,
            (
                (loss - gain(start), [*cuts, end])
                for start, best in ways.items()
                if start < end and sums[end + 1] - sums[start + 1] + ends[end] <= limit
                for loss, cuts in best
            ),
        )

    ways: dict[int, list[tuple[int, list[int]]]] = {-1: [(0, [])]}  # by last cut; losses are -V
    for k in range(num_blocks - 1):
        ways = {end: joined(k, end, ways) for end in range(k, last_layer)}
    return [(-loss, cuts[:-1]) for loss, cuts in joined(num_blocks - 1, last_layer, ways)]
