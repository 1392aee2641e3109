"""Bounds on the largest block: which decouplings respect one, and which of those is nearest.

Notation (L layers, K blocks; see `decouplings.compute` for the compute of a block and its share):
    C(i, j)   compute of the block of the layers i+1..j, with the auxiliary network at boundary j
    limit     the most compute that a block may have: max_block_share x the backbone's compute
All is exact: by `sedona_nni.decouplings.best_cuts`, and by counting.
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

from sedona_nni.decouplings.best_cuts import best_cuts
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.errors import InputError

__all__ = ["BlockBound", "BlockShare", "allowed_share"]


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


@dataclass(frozen=True)
class BlockBound:
    """The decouplings of a backbone whose largest block has at most a given share.

    Attributes:
        compute: What its layers and auxiliary networks cost.
        max_block_share: The bound, see `allowed_share`.

    Examples:
        >>> import torch
        >>> from sedona_nni import (
        ...     BlockBound, SearchResult, build_backbone, compute_in_macs, discretise,
        ... )
        >>> found = SearchResult(
        ...     backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(3, 0), (2, 0), (0, 1)], beta=[(0, 1), (1, 0), (1, 0)],
        ... )
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("dgl-cnn4", num_classes=10)
        >>> compute = compute_in_macs(backbone, found.aux_choices)
        >>> bound = BlockBound(compute, "1.5/K")
        >>> discretise(found, 2).cuts, discretise(found, 2, bound).cuts
        ([0], [1])
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
        total = self.compute.total
        counts = [num_blocks] if num_blocks else range(1, self.num_layers + 1)
        smallest = {count: self._smallest_limit(count, ends) for count in counts}
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

    def _smallest_limit(self, num_blocks: int, ends: Sequence[int]) -> int:
        """Return the smallest limit that some K-1 cuts respect."""
        blocks = itertools.combinations(range(-1, self.num_layers), 2)
        limits = sorted({self.compute.between(start, end) + ends[end] for start, end in blocks})
        return limits[
            bisect.bisect_left(
                limits, True, key=lambda limit: self._count(num_blocks, ends, limit, 1) > 0
            )
        ]

    def count(self, num_blocks: int, ends: Sequence[int], most: int) -> int:
        """Return how many ways of cutting into K blocks respect the bound, or ``most`` if more do.

        Args:
            num_blocks: K, at least 1.
            ends: What ending a block after each layer adds, see `ends`.
            most: How far to count.
        """
        return self._count(num_blocks, ends, self.limit(num_blocks), most)

    def _count(self, num_blocks: int, ends: Sequence[int], limit: int, most: int) -> int:
        def score(_: int, start: int, end: int) -> int | None:
            return 0 if self.compute.between(start, end) + ends[end] <= limit else None

        return len(best_cuts(self.num_layers, num_blocks, score, most))

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
        num_blocks, last = len(cuts) + 1, self.num_layers - 1
        limit = self.limit(num_blocks)

        def score(k: int, start: int, end: int) -> int | None:
            if end == last:
                return 0 if self.compute.between(start, end) <= limit else None
            return -abs(end - cuts[k]) if self._fitting(start, end, aux[end], limit) else None

        found = best_cuts(self.num_layers, num_blocks, score)
        if not found:
            self.check(num_blocks, self.ends(aux))
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
        ways = [{start: int(self.compute.between(start, top) <= limit) for start in range(-1, top)}]
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

    def _fitting(self, start: int, end: int, names: Sequence[str], limit: int) -> list[str]:
        """Return the auxiliary networks that may end the block of layers start+1..end."""
        own, auxiliary = self.compute.between(start, end), self.compute.auxiliary[end]
        return [name for name in names if own + auxiliary[name] <= limit]

    def _decoupling(self, cuts: list[int], aux: list[str]) -> Decoupling:
        return Decoupling(
            backbone=self.compute.backbone, cuts=cuts, aux=aux, provenance=self.provenance
        )
