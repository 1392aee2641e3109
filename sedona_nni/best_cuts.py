"""The best cuts of all, exactly, by dynamic programming.

With blocks of the layers i+1..j, s(i, j) what a cut at j is worth if the next one below is at i,
and C(i, j) the compute of such a block:

    V_0(-1) = 0
    V_k(j)  = max over i < j with C(i, j) <= limit of V_{k-1}(i) + s(i, j)
    result    max over i with C(i, L-1) <= limit of V_{K-1}(i)
"""

from __future__ import annotations

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
) -> tuple[int, list[int]] | None:
    """Return the best cuts of which all blocks respect the limit, None if there are none.

    Args:
        layers: Compute of each layer, L of them.
        ends: What ending a block after layer i adds, L of them; the last is 0.
        num_blocks: K.
        limit: The most compute of a block.
        score: What cut k, from 0, is worth, given the cut below it (-1: none) and its own boundary;
            integers, so that sums are exact.

    Returns:
        The largest total score and its K-1 cuts; of equals the first in lexicographic order.
    """
    sums = [0, *itertools.accumulate(layers)]
    last_layer = len(layers) - 1

    def joined(
        k: int, end: int, ways: dict[int, tuple[int, list[int]]]
    ) -> tuple[int, list[int]] | None:
        def gain(start: int) -> int:
            return score(k, start, end) if end < last_layer else 0

        return min(
            (
                (loss - gain(start), [*cuts, end])
                for start, (loss, cuts) in ways.items()
                if start < end and sums[end + 1] - sums[start + 1] + ends[end] <= limit
            ),
            default=None,
        )

    ways: dict[int, tuple[int, list[int]]] = {-1: (0, [])}  # by last cut; losses are -V
    for k in range(num_blocks - 1):
        reached = {end: joined(k, end, ways) for end in range(k, last_layer)}
        ways = {end: way for end, way in reached.items() if way is not None}
    found = joined(num_blocks - 1, last_layer, ways)
    return None if found is None else (-found[0], found[1][:-1])
