"""Strategies against one another, replicate by replicate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from benchmarks.study.document import BACKPROP, Measure, Net, Study

__all__ = ["REFERENCES", "Comparison", "compare"]

REFERENCES = ("probe", "sedona", "random", BACKPROP)
"""What every other strategy is compared with."""

_LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """By how much a strategy is better than a reference: test accuracy, fractions.

    Attributes:
        measure: Whether picks are compared, or single trainings.
        strategy: The strategy.
        reference: What it is compared with.
        net: Name of the net, or None for all of them.
        space: The space in words, or None for all of the net's.
        differences: Strategy less reference, of each replicate that both have.
        low: Lower end of the 95 % confidence interval of the mean difference (paired t-test); None
            where all replicates differ alike, or there is only one.
        high: Upper end.
        p: Two-sided, not corrected for the number of comparisons.
    """

    measure: Measure
    strategy: str
    reference: str
    net: str | None
    space: str | None
    differences: tuple[float, ...]
    low: float | None
    high: float | None
    p: float | None

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.differences)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return math.fsum(self.differences) / self.n

    def document(self) -> dict[str, Any]:
        """Return it, fit for JSON."""
        return {**asdict(self), "n": self.n, "mean": self.mean}


def compare(
    study: Study, strategy: str, reference: str, measure: Measure = "pick"
) -> list[Comparison]:
    """Compare two strategies in every space, over each net's spaces, and over all nets.

    Over several spaces a pair is one replicate of one net, with the mean over all spaces in which
    both strategies have picks: the spaces of a replicate share its search and its seeds, so they
    are not measurements of their own. A replicate that lacks one of these spaces is left out.

    Returns:
        First over everything, then net by net: all spaces, then each. Without those in which there
        is no pair.
    """

    def compared(
        net: str | None, space: str | None, pairs: Sequence[tuple[float, float]]
    ) -> Comparison:
        return Comparison(measure, strategy, reference, net, space, *_tested(pairs))

    found, everything = [], []
    for net in study.nets:
        spaces = range(len(net.spaces))
        shared = [
            space
            for space in spaces
            if net.accuracies(strategy, space) and net.accuracies(reference, space)
        ]
        pooled = _pairs(net, strategy, reference, shared, measure)
        everything += pooled
        found.append(compared(net.name, None, pooled))
        for space in shared:
            pairs = _pairs(net, strategy, reference, [space], measure)
            found.append(compared(net.name, net.spaces[space].in_words, pairs))
    if len(study.nets) > 1:
        found.insert(0, compared(None, None, everything))
    return [each for each in found if each.n]


def _pairs(
    net: Net, strategy: str, reference: str, spaces: Sequence[int], measure: Measure
) -> list[tuple[float, float]]:
    """Return both strategies' mean accuracies over some spaces, of each replicate that has all."""
    own = [net.accuracies(strategy, space, measure) for space in spaces]
    other = [net.accuracies(reference, space, measure) for space in spaces]
    if not spaces:
        return []
    replicates = sorted(set.intersection(*(set(each) for each in own + other)))
    return [
        (
            math.fsum(each[number] for each in own) / len(spaces),
            math.fsum(each[number] for each in other) / len(spaces),
        )
        for number in replicates
    ]


def _tested(
    pairs: Sequence[tuple[float, float]],
) -> tuple[tuple[float, ...], float | None, float | None, float | None]:
    """Return the differences, and interval and p of their mean."""
    differences = tuple(round(own - other, 6) for own, other in pairs)
    if len(set(differences)) < 2:  # there is no spread to judge the mean by
        return differences, None, None, None
    test = ttest_rel(*zip(*pairs, strict=True))
    interval = test.confidence_interval(_LEVEL)
    return differences, float(interval.low), float(interval.high), float(np.asarray(test.pvalue))
