"""The choice of cuts: what a search found out becomes decouplings, exactly, for any K.

Notation (L layers, K blocks):
    e_ijc     evidence for the block of the layers i+1..j taught by auxiliary network c, see
              `SearchOutcome.evidence`
Chosen are the K-1 cuts of the largest total evidence, if there is a bound of those whose blocks all
respect it; exactly, by dynamic programming, see `sedona_nni.decouplings.best_cuts`.

Of SEDONA e_ijc is alpha_j^loc - alpha_j^up = log(a_j^loc / a_j^up) whatever i and c are. Read as
independent decisions, a relaxation gives a set of cuts S the probability
prod_{j in S} a_j^loc prod_{j not in S} a_j^up, whose logarithm is the sum of e over S + const. So
the result is the most probable set of those within the bound. Without one it is that of the K-1
largest a^loc and, with K open, that of all boundaries where a^loc > a^up.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sedona_nni.decouplings.best_cuts import best_cuts, exact
from sedona_nni.decouplings.bounds import BlockBound, Ends, Limit
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.teachers import NO_AUXILIARY

__all__ = ["FrontPoint", "discretise", "evidence", "leaders", "pareto_front"]


def discretise(
    result: SearchOutcome, num_blocks: int, bound: BlockBound | None = None
) -> Decoupling:
    """Derive the decoupling of a search result, with or without a bound on its blocks.

    The cuts are those of the largest total evidence, with a bound of those within it; see the top
    of this file. Of equals they are the first in lexicographic order. With K = 0 any number of cuts
    is considered; of equals the fewest.
    Of the auxiliary networks that a search ranks at a boundary, the first one that fits into the
    block stands there; where none fits, that block is not possible.

    Raises:
        InputError: unless 0 <= K <= L, if no decoupling is within the bound, or for K = 0 if such a
            search cannot tell K.

    Examples:
        >>> from sedona_nni import SearchResult, discretise
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> discretise(found, 3).in_words()
        'cut after layer 0 (conv2) and 1 (conv1)'
    """
    return leaders(result, num_blocks, 1, bound)[0]


def leaders(
    result: SearchOutcome, num_blocks: int, count: int, bound: BlockBound | None = None
) -> list[Decoupling]:
    """Return the decouplings of the most evidence: that of `discretise`, and the next ones.

    They have different cuts; which auxiliary network stands at each: see `discretise`.

    Args:
        result: What was searched.
        num_blocks: K; 0 considers any number.
        count: How many are wanted.
        bound: What they have to respect.

    Returns:
        The most evident first; fewer than wanted if there are no more.

    Raises:
        InputError: as `discretise` does.

    Examples:
        >>> from sedona_nni import SearchResult, leaders
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> [decoupling.cuts for decoupling in leaders(found, 2, 2)]
        [[0], [1]]
    """
    if num_blocks == 0:
        result.check_tells_num_blocks()
    check_num_blocks(num_blocks or 1, result.num_layers)
    if bound is not None:
        bound.check_covers(result.backbone, result.aux_choices)
    counts = [num_blocks] if num_blocks else range(1, result.num_layers + 1)
    evident, found = _Exact(result), []
    for k in counts:
        found += evident.best(k, count, [] if bound is None else bound.limits(k))
    if bound is not None and not found:
        bound.check(num_blocks, _possible_ends(result, bound))
    found.sort(key=lambda each: -each[0])  # stable: of equals the fewest cuts
    how = {"num_blocks": num_blocks} if num_blocks else {"rule": result.rule_for_num_blocks}
    how |= {} if bound is None else bound.provenance
    return [result.at(cuts, how, aux) for _, cuts, aux in found[:count]]


class _Exact:
    """The evidence of a search in integers, and the cuts that have the most of it."""

    def __init__(self, result: SearchOutcome) -> None:
        self._num_layers = result.num_layers
        self._names = list(result.aux_choices)
        self._ranked = [result.ranked_aux(i) for i in range(result.num_layers - 1)]
        self._of_blocks = exact(result.evidence())

    def best(
        self, num_blocks: int, count: int, limits: Sequence[Limit]
    ) -> list[tuple[int, list[int], list[str]]]:
        """Return the cuts of the most evidence with their auxiliary networks, see `discretise`.

        Args:
            num_blocks: K, at least 1.
            count: How many are wanted.
            limits: What blocks may cost.

        Returns:
            The largest evidence first, in a unit in which it is an integer.
        """
        last = self._num_layers - 1

        def fits(start: int, end: int, name: str = NO_AUXILIARY) -> bool:
            return all(limit.allows(start, end, name) for limit in limits)

        @functools.cache
        def aux(start: int, end: int) -> str | None:
            return next((name for name in self._ranked[end] if fits(start, end, name)), None)

        def score(_: int, start: int, end: int) -> int | None:
            if end == last:
                return 0 if fits(start, end) else None
            name = aux(start, end)
            if name is None:
                return None
            return int(self._of_blocks[start + 1, end, self._names.index(name)])

        return [
            (total, cuts, [str(aux(start, end)) for start, end in itertools.pairwise([-1, *cuts])])
            for total, cuts in best_cuts(self._num_layers, num_blocks, score, count)
        ]


def _possible_ends(result: SearchOutcome, bound: BlockBound) -> Ends:
    """Return the auxiliary networks that a boundary may get."""
    return bound.ends(result.ranked_aux(i) for i in range(result.num_layers - 1))


def evidence(result: SearchOutcome, decoupling: Decoupling) -> float:
    """Return the total evidence for a decoupling, nats, see `SearchOutcome.evidence`.

    Raises:
        ValueError: if the search did not have one of its auxiliary networks to choose from.
    """
    of_blocks = result.evidence()
    pairs = zip(itertools.pairwise([-1, *decoupling.cuts]), decoupling.aux, strict=True)
    return math.fsum(
        of_blocks[below + 1, cut, result.aux_choices.index(name)] for (below, cut), name in pairs
    )


@dataclass(frozen=True)
class FrontPoint:
    """A decoupling with what speaks for it.

    Attributes:
        decoupling: The decoupling.
        evidence: See `evidence`.
        largest_share: See `Compute.largest_share`.

    Examples:
        >>> import torch
        >>> from sedona_nni import (
        ...     FrontPoint, SearchResult, build_backbone, compute_in_macs, discretise,
        ... )
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("dgl-cnn4", num_classes=10)
        >>> compute = compute_in_macs(backbone, found.aux_choices)
        >>> point = FrontPoint.of(found, discretise(found, 2), compute)
        >>> point.evidence, round(point.ideal_speedup, 2)
        (3.0, 1.02)
    """

    decoupling: Decoupling
    evidence: float
    largest_share: float

    @property
    def ideal_speedup(self) -> float:
        """What a pipeline with a device per block gains at best over back-propagation on one."""
        return 1 / self.largest_share

    @classmethod
    def of(cls, result: SearchOutcome, decoupling: Decoupling, compute: Compute) -> FrontPoint:
        """Judge a decoupling by a search result."""
        return cls(decoupling, evidence(result, decoupling), compute.largest_share(decoupling))


def pareto_front(
    result: SearchOutcome,
    num_blocks: int,
    compute: Compute,
    max_block_share: str | None = None,
    *,
    memory: Compute | None = None,
    max_block_memory: str | None = None,
) -> list[FrontPoint]:
    """Return the whole Pareto front of evidence against ideal speed-up for K blocks.

    Every decoupling into K blocks that `discretise` could choose has at most the evidence or at
    most the ideal speed-up of one on the front; those on it are not surpassed in one without
    loss in the other. Exact: from the most evident on, the next has the largest evidence among
    those whose largest block is smaller than before.

    Args:
        result: What was searched.
        num_blocks: K, at least 1.
        compute: What layers and auxiliary networks cost.
        max_block_share: Only what respects this.
        memory: The memory of layers and auxiliary networks, with ``max_block_memory``.
        max_block_memory: Only what respects this, too.

    Returns:
        Falling evidence, rising speed-up.

    Raises:
        InputError: unless 1 <= K <= L, or if no decoupling respects the bound.

    Examples:
        >>> import torch
        >>> from sedona_nni import SearchResult, build_backbone, compute_in_macs, pareto_front
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("dgl-cnn4", num_classes=10)
        >>> compute = compute_in_macs(backbone, found.aux_choices)
        >>> for point in pareto_front(found, 2, compute):
        ...     print(point.decoupling.cuts, point.evidence, round(point.ideal_speedup, 2))
        [0] 3.0 1.02
        [1] 2.0 1.35
    """
    check_num_blocks(num_blocks, result.num_layers)
    bound = BlockBound(compute, max_block_share, memory, max_block_memory)
    bound.check_covers(result.backbone, result.aux_choices)
    limits = bound.limits(num_blocks)
    front: dict[int, Decoupling] = {}  # of equal evidence the last, whose largest block is smaller
    evident = _Exact(result)
    while best := evident.best(num_blocks, 1, limits):
        ((total, cuts, aux),) = best
        how = {"num_blocks": num_blocks, "compute": compute.as_provenance}
        front[total] = result.at(cuts, how, aux)
        smaller = Limit(compute, max(compute.blocks(front[total])) - 1)
        limits = [*bound.limits(num_blocks), smaller]
    if not front:
        bound.check(num_blocks, _possible_ends(result, bound))
    return [FrontPoint.of(result, decoupling, compute) for decoupling in front.values()]
