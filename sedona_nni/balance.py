"""Decouplings whose largest block is bounded: exact choices, by dynamic programming.

Notation (L layers, K blocks; see `sedona_nni.compute` for the compute of a block and its share):
    C(i, j)   compute of the block of the layers i+1..j, with the auxiliary network at boundary j
    limit     the most compute that a block may have: max_block_share x the backbone's compute
    e_i       evidence for a cut at boundary i: alpha_i^loc - alpha_i^up = log(a^loc / a^up);
              that of a probing depends on the next cut below as well, `ProbeResult.evidence`
Chosen are the K-1 cuts of the largest total evidence whose blocks all respect the limit, exactly,
see `sedona_nni.best_cuts`.

Read as independent decisions, a relaxation gives a set of cuts S the probability
prod_{i in S} a_i^loc prod_{i not in S} a_i^up, whose logarithm is sum_{i in S} e_i + const. So the
result is the most probable set of those within the limit. Without a limit it is that of the K-1
largest a^loc and, with K open, that of all boundaries where a^loc > a^up, as in
`SearchOutcome.decoupling`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from sedona_nni.best_cuts import best_cuts, exact
from sedona_nni.compute import Compute
from sedona_nni.decoupling import Decoupling, SearchOutcome, check_num_blocks
from sedona_nni.errors import InputError

__all__ = [
    "BlockBound",
    "BlockShare",
    "FrontPoint",
    "allowed_share",
    "discretise",
    "evidence",
    "leaders",
    "pareto_front",
]


def allowed_share(max_block_share: str, num_blocks: int) -> Fraction:
    """Return the largest share that a block may have: of ``"0.4"`` 0.4, of ``"1.3/K"`` 1.3 / K.

    Raises:
        InputError: unless it is a number above 0 and up to 1, or such a multiple of 1/K.
    """
    number, slash, unit = max_block_share.replace(" ", "").partition("/")
    try:
        share = Fraction(number)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if share <= 0 or (slash, unit) not in (("", ""), ("/", "K")) or (not slash and share > 1):
        rule = "must be a share above 0 and up to 1, e.g. 0.4, or a multiple of 1/K, e.g. 1.3/K"
        raise InputError.rule("max_block_share", rule, max_block_share)
    return share / num_blocks if slash else share


def _checked(text: str) -> str:
    allowed_share(text, 1)
    return text


BlockShare = Annotated[str, BeforeValidator(str), AfterValidator(_checked)]
"""A bound on the largest block's share as users write it: ``0.4`` or ``1.3/K``."""


def _smallest_limit(layers: Sequence[int], ends: Sequence[int], num_blocks: int) -> int:
    """Return the smallest limit that some K-1 cuts respect."""
    sums = [0, *itertools.accumulate(layers)]
    blocks = {
        sums[end + 1] - sums[start] + ends[end]
        for start, end in itertools.combinations_with_replacement(range(len(layers)), 2)
    }
    limits = sorted(blocks)
    return limits[
        bisect.bisect_left(
            limits,
            True,
            key=lambda limit: bool(best_cuts(layers, ends, num_blocks, limit, lambda k, i, j: 0)),
        )
    ]


@dataclass(frozen=True)
class BlockBound:
    """The decouplings of a backbone whose largest block has at most a given share.

    Attributes:
        compute: What its layers and auxiliary networks cost.
        max_block_share: The bound, see `allowed_share`.
    """

    compute: Compute
    max_block_share: str

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.compute.layers)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a decoupling chosen under the bound carries along."""
        return {"max_block_share": self.max_block_share, "compute": self.compute.as_provenance}

    def limit(self, num_blocks: int) -> int:
        """Return the most compute that one of K blocks may have."""
        share = allowed_share(self.max_block_share, num_blocks)
        return math.floor(share * self.compute.total)

    def respects(self, decoupling: Decoupling) -> bool:
        """Return whether all blocks of a decoupling are within the bound."""
        return max(self.compute.blocks(decoupling)) <= self.limit(decoupling.num_blocks)

    def require(self, decoupling: Decoupling, field: str) -> None:
        """Check that a decoupling given under ``field`` is within the bound.

        Raises:
            InputError: if it is not.
        """
        if not self.respects(decoupling):
            share = self.compute.largest_share(decoupling)
            raise InputError(
                f"{field}: must respect max_block_share {self.max_block_share}, but the largest "
                f"block of {decoupling.in_words()!r} has {share:.4f}"
            )

    def ends(self, aux: Iterable[Sequence[str]], *, costliest: bool = False) -> list[int]:
        """Return what the cheapest of some auxiliary networks at each boundary adds to a block.

        Args:
            aux: Names for each of the L-1 boundaries.
            costliest: Take the costliest instead.

        Returns:
            L numbers; nothing ends after the last layer, so the last is 0.
        """
        pick = max if costliest else min
        pairs = zip(aux, self.compute.auxiliary, strict=True)
        return [*(pick(costs[name] for name in names) for names, costs in pairs), 0]

    def check(self, num_blocks: int, ends: Sequence[int], which: str = "") -> None:
        """Check that K blocks can respect the bound, for K = 0 that any number of blocks can.

        Args:
            num_blocks: K.
            ends: What ending a block after each layer adds, see `ends`.
            which: What the message says of the auxiliary networks, e.g. ``" with predsim"``.

        Raises:
            InputError: that says which bound they could respect.
        """
        if num_blocks:
            check_num_blocks(num_blocks, self.num_layers)
        layers, total = self.compute.layers, self.compute.total
        counts = [num_blocks] if num_blocks else range(1, self.num_layers + 1)
        smallest = {count: _smallest_limit(layers, ends, count) for count in counts}
        if all(smallest[count] > self.limit(count) for count in counts):
            per_block = "/" in self.max_block_share
            needed = min(
                Fraction(limit, total) * (count if per_block else 1)
                for count, limit in smallest.items()
            )
            rounded = f"{math.ceil(needed * 10**4) / 10**4:.4f}".rstrip("0").rstrip(".")
            raise InputError.rule(
                "max_block_share",
                f"must be at least {rounded}{'/K' if per_block else ''} for "
                f"{num_blocks or 'any number of'} blocks of {self.compute.backbone}{which}",
                self.max_block_share,
            )

    def count(self, num_blocks: int, ends: Sequence[int], most: int) -> int:
        """Return how many ways of cutting into K blocks respect the bound, or ``most`` if more do.

        Args:
            num_blocks: K, at least 1.
            ends: What ending a block after each layer adds, see `ends`.
            most: How far to count.
        """
        limit = self.limit(num_blocks)
        return len(best_cuts(self.compute.layers, ends, num_blocks, limit, lambda k, i, j: 0, most))

    def nearest(self, cuts: Sequence[int], aux: Sequence[Sequence[str]]) -> Decoupling:
        """Return the decoupling within the bound that needs the least moving of given cuts.

        That is, of as many cuts the ones with the smallest sum of |k-th cut - k-th given cut|; of
        equals the first in lexicographic order. Cuts within the bound stay as they are.

        Args:
            cuts: Rising boundaries.
            aux: At each of the L-1 boundaries the auxiliary networks that may be used, the
                preferred ones first: the first that fits into the block is.

        Raises:
            InputError: if as many blocks cannot respect the bound.
        """
        ends, limit = self.ends(aux), self.limit(len(cuts) + 1)
        found = best_cuts(
            self.compute.layers, ends, len(cuts) + 1, limit, lambda k, i, j: -abs(j - cuts[k])
        )
        if not found:
            self.check(len(cuts) + 1, ends)
        ((_, nearest),) = found
        starts = itertools.pairwise([-1, *nearest])
        chosen = [self._fitting(start, end, aux[end], limit)[0] for start, end in starts]
        return self._decoupling(nearest, chosen)

    def random(
        self,
        num_blocks: int,
        aux_choices: Sequence[str],
        rng: np.random.Generator | np.random.RandomState,
    ) -> Decoupling:
        """Draw one of the decouplings into K blocks within the bound, all equally likely.

        Raises:
            InputError: if there is none.
        """
        check_num_blocks(num_blocks, self.num_layers)
        limit, top = self.limit(num_blocks), self.num_layers - 1
        fitting = {
            (start, end): self._fitting(start, end, aux_choices, limit)
            for start, end in itertools.combinations(range(-1, top), 2)
        }
        # In how many ways what lies above a boundary can be 1, 2, ... K blocks
        ways = [{start: int(self._rest(start) <= limit) for start in range(-1, top)}]
        for _ in range(num_blocks - 1):
            above = ways[-1]
            ways.append(
                {
                    start: sum(
                        len(fitting[start, end]) * above[end] for end in range(start + 1, top)
                    )
                    for start in range(-1, top)
                }
            )
        if not ways[-1][-1]:
            self.check(num_blocks, self.ends([aux_choices] * (self.num_layers - 1)))
        cuts, aux, start = [], [], -1
        for above, total in zip(ways[-2::-1], ways[:0:-1], strict=True):
            ends = range(start + 1, top)
            chances = [len(fitting[start, end]) * above[end] / total[start] for end in ends]
            cuts.append(int(rng.choice(ends, p=chances)))
            names = fitting[start, cuts[-1]]
            aux.append(names[int(rng.choice(len(names)))])
            start = cuts[-1]
        return self._decoupling(cuts, aux)

    def _rest(self, boundary: int) -> int:
        """Return the compute of all layers above a boundary, -1 for all layers."""
        return sum(self.compute.layers[boundary + 1 :])

    def _fitting(self, start: int, end: int, names: Sequence[str], limit: int) -> list[str]:
        """Return the auxiliary networks that may end the block of layers start+1..end."""
        own = self._rest(start) - self._rest(end)
        return [name for name in names if own + self.compute.auxiliary[end][name] <= limit]

    def _decoupling(self, cuts: list[int], aux: list[str]) -> Decoupling:
        return Decoupling(
            backbone=self.compute.backbone, cuts=cuts, aux=aux, provenance=self.provenance
        )


def discretise(
    result: SearchOutcome, num_blocks: int, bound: BlockBound | None = None
) -> Decoupling:
    """Derive the decoupling of a search result, with or without a bound on its blocks.

    With a bound, the cuts are those of the largest total evidence among those within it; see the
    top of this file. The auxiliary network of a boundary stays the preferred one; where it is too
    large for a block, that block is not possible.
    With K = 0 any number of cuts is considered; of equals the fewest, then the first in
    lexicographic order.

    Raises:
        InputError: unless 0 <= K <= L, if no decoupling is within the bound, or for K = 0 if such a
            search cannot tell K.
    """
    if bound is None:
        return result.decoupling(num_blocks)
    return leaders(result, num_blocks, 1, bound)[0]


def leaders(
    result: SearchOutcome, num_blocks: int, count: int, bound: BlockBound | None = None
) -> list[Decoupling]:
    """Return the decouplings of the most evidence: that of `discretise`, and the next ones.

    They have different cuts; at each stands the preferred auxiliary network.

    Args:
        result: What was searched.
        num_blocks: K; 0 considers any number.
        count: How many are wanted.
        bound: What they have to respect.

    Returns:
        The most evident first; fewer than wanted if there are no more.

    Raises:
        InputError: as `discretise` does.
    """
    if num_blocks == 0:
        result.check_tells_num_blocks()
    check_num_blocks(num_blocks or 1, result.num_layers)
    counts = [num_blocks] if num_blocks else range(1, result.num_layers + 1)
    free = [0] * result.num_layers  # nothing is too large
    layers, ends = (
        (free, free) if bound is None else (bound.compute.layers, _ends(result, bound.compute))
    )
    scores = exact(result.evidence())
    found = []
    for k in counts:
        limit = 0 if bound is None else bound.limit(k)
        found += best_cuts(layers, ends, k, limit, lambda _, i, j: scores[i + 1][j], count)
    if bound is not None and not found:
        bound.check(num_blocks, ends)
    found.sort(key=lambda each: -each[0])  # stable: of equals the fewest cuts
    how = {"num_blocks": num_blocks} if num_blocks else {"rule": "a_loc > a_up"}
    how |= {} if bound is None else bound.provenance
    return [result.at(cuts, how) for _, cuts in found[:count]]


def evidence(result: SearchOutcome, decoupling: Decoupling) -> float:
    """Return the total evidence for a decoupling's cuts, nats, see `SearchOutcome.evidence`."""
    of_blocks = result.evidence()
    pairs = itertools.pairwise([-1, *decoupling.cuts])
    return math.fsum(of_blocks[below + 1, cut] for below, cut in pairs)


@dataclass(frozen=True)
class FrontPoint:
    """A decoupling with what speaks for it.

    Attributes:
        decoupling: The decoupling.
        evidence: See `evidence`.
        largest_share: See `Compute.largest_share`.
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
) -> list[FrontPoint]:
    """Return the whole Pareto front of evidence against ideal speed-up for K blocks.

    Every decoupling into K blocks with the preferred auxiliary networks has at most the evidence or
    at most the ideal speed-up of one on the front; those on it are not surpassed in one without
    loss in the other. Exact: from the most evident on, the next has the largest evidence among
    those whose largest block is smaller than before.

    Args:
        result: What was searched.
        num_blocks: K, at least 1.
        compute: What layers and auxiliary networks cost.
        max_block_share: Only what respects this.

    Returns:
        Falling evidence, rising speed-up.

    Raises:
        InputError: unless 1 <= K <= L, or if no decoupling respects the bound.
    """
    check_num_blocks(num_blocks, result.num_layers)
    ends, scores = _ends(result, compute), exact(result.evidence())
    bound = BlockBound(compute, max_block_share or "1")
    limit = bound.limit(num_blocks) if max_block_share else compute.total + sum(ends)
    front: dict[int, Decoupling] = {}  # of equal evidence the last, whose largest block is smaller
    while best := best_cuts(
        compute.layers, ends, num_blocks, limit, lambda k, i, j: scores[i + 1][j]
    ):
        ((total, cuts),) = best
        how = {"num_blocks": num_blocks, "compute": compute.as_provenance}
        front[total] = result.at(cuts, how)
        limit = max(compute.blocks(front[total])) - 1
    if not front:
        bound.check(num_blocks, ends)
    return [FrontPoint.of(result, decoupling, compute) for decoupling in front.values()]


def _ends(result: SearchOutcome, compute: Compute) -> list[int]:
    """Return what the preferred auxiliary network at each boundary adds to a block."""
    compute.check_covers(result.backbone, result.aux_choices)
    preferred = [[result.preferred_aux(i)] for i in range(result.num_layers - 1)]
    return BlockBound(compute, "1").ends(preferred)
