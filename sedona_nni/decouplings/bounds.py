"""Bounds on the largest block: which decouplings respect one, and which of those is nearest.

Notation (L layers, K blocks; see `decouplings.compute` for the compute of a block and its share):
    C(i, j)   compute of the block of the layers i+1..j, with the auxiliary network at boundary j
    limit     the most that a block may have: max_block_share x the backbone's compute, of memory
              max_block_memory
There may be a bound on compute, one on memory, or both. All is exact: by
`sedona_nni.decouplings.best_cuts`, and by counting.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from sedona_nni.decouplings.best_cuts import best_cuts
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.errors import InputError
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import check_plain

__all__ = [
    "BlockBound",
    "BlockMemory",
    "BlockShare",
    "Ends",
    "Limit",
    "allowed_memory",
    "allowed_share",
]

_MIB = 2**20
_WHERE = "with a bound on blocks"  # which does not know what a kind of cut costs above it
_Field = Literal["max_block_share", "max_block_memory"]
_Ways = tuple[dict[tuple[int, int], list[str]], list[dict[int, int]]]  # see `BlockBound._ways`


def _number_of(text: str) -> tuple[Fraction, bool] | None:
    """Return a number and whether it is a multiple of 1/K, None of a text that is neither."""
    number, slash, unit = text.replace(" ", "").partition("/")
    try:
        value = Fraction(number)
    except (ValueError, ZeroDivisionError):
        return None
    if value <= 0 or (slash, unit) not in (("", ""), ("/", "K")):
        return None
    return value, bool(slash)


def allowed_share(max_block_share: str, num_blocks: int) -> Fraction:
    """Return the largest share that a block may have: of ``"0.4"`` 0.4, of ``"1.3/K"`` 1.3 / K.

    Raises:
        InputError: unless it is a number above 0 and up to 1, or such a multiple of 1/K.
    """
    found = _number_of(max_block_share)
    if found is None or (found[0] > 1 and not found[1]):
        rule = "must be a share above 0 and up to 1, e.g. 0.4, or a multiple of 1/K, e.g. 1.3/K"
        raise InputError.rule("max_block_share", rule, max_block_share)
    share, per_block = found
    return share / num_blocks if per_block else share


def allowed_memory(max_block_memory: str, num_blocks: int, whole: int) -> Fraction:
    """Return the most memory that a block may have, in bytes.

    Args:
        max_block_memory: MiB, e.g. ``"512"``, or a multiple of 1/K of back-propagation's, e.g.
            ``"1.3/K"``.
        num_blocks: K.
        whole: What back-propagation has, bytes.

    Raises:
        InputError: unless it is either.
    """
    found = _number_of(max_block_memory)
    if found is None:
        rule = "must be MiB above 0, e.g. 512, or a multiple of 1/K, e.g. 1.3/K"
        raise InputError.rule("max_block_memory", rule, max_block_memory)
    number, per_block = found
    return number * whole / num_blocks if per_block else number * _MIB


def _checked_share(text: str) -> str:
    allowed_share(text, 1)
    return text


def _checked_memory(text: str) -> str:
    allowed_memory(text, 1, 1)
    return text


BlockShare = Annotated[str, BeforeValidator(str), AfterValidator(_checked_share)]
"""A bound on the largest block's share as users write it: ``0.4`` or ``1.3/K``."""

BlockMemory = Annotated[str, BeforeValidator(str), AfterValidator(_checked_memory)]
"""A bound on the largest block's memory as users write it: ``512``, in MiB, or ``1.3/K``."""


@dataclass(frozen=True)
class Limit:
    """What a block costs in one regard, and the most that it may.

    Attributes:
        costs: What layers and auxiliary networks cost.
        most: Of a block with its auxiliary network.
    """

    costs: Compute
    most: int

    def allows(self, start: int, end: int, aux: str = NO_AUXILIARY) -> bool:
        """Return whether the block of layers start+1..end may be, with an auxiliary network."""
        return self.costs.block(start, end, aux) <= self.most


@dataclass(frozen=True)
class Ends:
    """What may end a block.

    Attributes:
        aux: Auxiliary networks for each of the L-1 boundaries.
        every: Whether a block has to be within the bound with every one of them, or with any.
    """

    aux: list[Sequence[str]]
    every: bool = False

    def allowed(self, start: int, end: int, limits: Sequence[Limit]) -> bool:
        """Return whether the block of layers start+1..end may be."""
        if end == len(self.aux):
            return all(limit.allows(start, end) for limit in limits)
        fits = (all(limit.allows(start, end, name) for limit in limits) for name in self.aux[end])
        return all(fits) if self.every else any(fits)

    def amounts(self, start: int, end: int, costs: Compute) -> list[int]:
        """Return what the block may cost, by its auxiliary network."""
        names = self.aux[end] if end < len(self.aux) else [NO_AUXILIARY]
        return [costs.block(start, end, name) for name in names]


@dataclass(frozen=True)
class BlockBound:
    """The decouplings of a backbone whose blocks are no larger than they may be.

    Attributes:
        compute: What its layers and auxiliary networks cost.
        max_block_share: The bound on compute, see `allowed_share`; None: there is none.
        memory: Their memory, where there is a bound on it.
        max_block_memory: That bound, see `allowed_memory`.

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
    max_block_share: str | None = None
    memory: Compute | None = None
    max_block_memory: str | None = None

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.compute.layers)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a decoupling chosen under the bound carries along."""
        found: dict[str, Any] = {}
        if self.max_block_share is not None:
            found |= {
                "max_block_share": self.max_block_share,
                "compute": self.compute.as_provenance,
            }
        if self.memory is not None:
            found |= {"max_block_memory": self.max_block_memory, "memory": self.memory.provenance}
        return found

    def check_covers(self, backbone: str, aux_names: Iterable[str]) -> None:
        """Check that the bound is about a backbone and some auxiliary networks.

        Raises:
            InputError: if it is about another backbone or lacks one of them.
        """
        names = [*aux_names]
        check_plain(names, _WHERE)
        for costs in (self.compute, *([] if self.memory is None else [self.memory])):
            costs.check_covers(backbone, names)

    def limits(self, num_blocks: int) -> list[Limit]:
        """Return what one of K blocks may cost, in each regard that is bounded."""
        return [*self._limits(num_blocks).values()]

    def _limits(self, num_blocks: int) -> dict[_Field, Limit]:
        found: dict[_Field, Limit] = {}
        if self.max_block_share is not None:
            most = allowed_share(self.max_block_share, num_blocks) * self.compute.total
            found["max_block_share"] = Limit(self.compute, math.floor(most))
        if self.memory is not None and self.max_block_memory is not None:
            most = allowed_memory(self.max_block_memory, num_blocks, self.memory.total)
            found["max_block_memory"] = Limit(self.memory, math.floor(most))
        return found

    def respects(self, decoupling: Decoupling) -> bool:
        """Return whether all blocks of a decoupling are within the bound."""
        return not self._broken(decoupling)

    def _broken(self, decoupling: Decoupling) -> list[_Field]:
        limits = self._limits(decoupling.num_blocks)
        return [
            name
            for name, limit in limits.items()
            if max(limit.costs.blocks(decoupling)) > limit.most
        ]

    def require(self, decoupling: Decoupling, field: str) -> None:
        """Check that a decoupling given under ``field`` is within the bound.

        Raises:
            InputError: if it is not.
        """
        check_plain(decoupling.aux, _WHERE)
        for broken in self._broken(decoupling):
            costs = self._limits(decoupling.num_blocks)[broken].costs
            if broken == "max_block_share":
                has = f"has {costs.largest_share(decoupling):.4f}"
            else:
                has = f"takes {max(costs.blocks(decoupling)) / _MIB:.1f} MiB"
            raise InputError(
                f"{field}: must respect {broken} {getattr(self, broken)}, but the largest "
                f"block of {decoupling.in_words()!r} {has}"
            )

    def ends(self, aux: Iterable[Sequence[str]], *, costliest: bool = False) -> Ends:
        """Return what may end a block: any of some auxiliary networks at each boundary.

        Args:
            aux: Names for each of the L-1 boundaries.
            costliest: Blocks have to be within the bound with every one of them.
        """
        choices = [*aux]
        check_plain(itertools.chain(*choices), _WHERE)
        return Ends(choices, costliest)

    def check(self, num_blocks: int, ends: Ends, which: str = "") -> None:
        """Check that K blocks can respect the bound, for K = 0 that any number of blocks can.

        Args:
            num_blocks: K.
            ends: What may end a block, see `ends`.
            which: What the message says of the auxiliary networks, e.g. ``" with predsim"``.

        Raises:
            InputError: that says which bound they could respect.
        """
        if num_blocks:
            check_num_blocks(num_blocks, self.num_layers)
        counts = [num_blocks] if num_blocks else [*range(1, self.num_layers + 1)]
        if any(self._count(count, ends, self.limits(count), 1) for count in counts):
            return
        fields = [*self._limits(1)]
        for name in fields:
            alone = [(count, [self._limits(count)[name]]) for count in counts]
            if not any(self._count(count, ends, limit, 1) for count, limit in alone):
                raise self._too_tight(name, counts, ends, which, num_blocks)
        first, second = fields  # each alone can be respected
        within = f"{which} within {first} {getattr(self, first)}"
        raise self._too_tight(second, counts, ends, within, num_blocks, beside=first)

    def _too_tight(
        self,
        name: _Field,
        counts: Sequence[int],
        ends: Ends,
        which: str,
        num_blocks: int,
        beside: _Field | None = None,
    ) -> InputError:
        """Return the error that says which of the numbers of one field could be respected."""
        text = getattr(self, name)
        per_block, needed = "/" in text, []
        for count in counts:
            limits = self._limits(count)
            others = [] if beside is None else [limits[beside]]
            smallest = self._smallest_limit(count, ends, limits[name].costs, others)
            if smallest is not None:
                whole = limits[name].costs.total
                unit = whole if per_block or name == "max_block_share" else _MIB
                needed.append(Fraction(smallest, unit) * (count if per_block else 1))
        rounded = f"{math.ceil(min(needed) * 10**4) / 10**4:.4f}".rstrip("0").rstrip(".")
        return InputError.rule(
            name,
            f"must be at least {rounded}{'/K' if per_block else ''} for "
            f"{num_blocks or 'any number of'} blocks of {self.compute.backbone}{which}",
            text,
        )

    def _smallest_limit(
        self, num_blocks: int, ends: Ends, costs: Compute, others: Sequence[Limit]
    ) -> int | None:
        """Return the smallest limit that some K-1 cuts respect, beside others; None: none does."""
        blocks = itertools.combinations(range(-1, self.num_layers), 2)
        amounts = sorted({each for block in blocks for each in ends.amounts(*block, costs)})

        def possible(most: int) -> bool:
            return self._count(num_blocks, ends, [*others, Limit(costs, most)], 1) > 0

        place = bisect.bisect_left(amounts, True, key=possible)
        return amounts[place] if place < len(amounts) else None

    def count(self, num_blocks: int, ends: Ends, most: int) -> int:
        """Return how many ways of cutting into K blocks respect the bound, or ``most`` if more do.

        Args:
            num_blocks: K, at least 1.
            ends: What may end a block, see `ends`.
            most: How far to count.
        """
        return self._count(num_blocks, ends, self.limits(num_blocks), most)

    def _count(self, num_blocks: int, ends: Ends, limits: Sequence[Limit], most: int) -> int:
        @functools.cache
        def allowed(start: int, end: int) -> bool:
            return ends.allowed(start, end, limits)

        def score(_: int, start: int, end: int) -> int | None:
            return 0 if allowed(start, end) else None

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
        limits = self.limits(num_blocks)

        def fitting(cuts: Sequence[int]) -> list[list[str]]:
            starts = itertools.pairwise([-1, *cuts])
            return [_fitting(start, end, aux[end], limits) for start, end in starts]

        def may_be_last(start: int) -> bool:
            return all(limit.allows(start, last) for limit in limits)

        def score(k: int, start: int, end: int) -> int | None:
            if end == last:
                return 0 if may_be_last(start) else None
            return -abs(end - cuts[k]) if _fitting(start, end, aux[end], limits) else None

        names = fitting(cuts)
        if not (all(names) and may_be_last(cuts[-1] if cuts else -1)):
            found = best_cuts(self.num_layers, num_blocks, score)
            if not found:
                self.check(num_blocks, self.ends(aux))
            ((_, cuts),) = found
            names = fitting(cuts)
        return self._decoupling([*cuts], [allowed[0] for allowed in names])

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
        fitting, ways = self._ways(num_blocks, (*aux_choices,))
        top = self.num_layers - 1
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

    def _ways(self, num_blocks: int, aux_choices: tuple[str, ...]) -> _Ways:
        """Return what `random` draws by; counted once for each K and choice of networks.

        Returns:
            The auxiliary networks that may end the block of the layers start+1..end, by start and
            end; and for 1, 2, ... K blocks in how many ways the layers above a start can be so
            many, by start.
        """
        key = num_blocks, aux_choices
        if key not in self._counted:
            self._counted[key] = self._count_ways(*key)
        return self._counted[key]

    @functools.cached_property
    def _counted(self) -> dict[tuple[int, tuple[str, ...]], _Ways]:
        return {}

    def _count_ways(self, num_blocks: int, aux_choices: tuple[str, ...]) -> _Ways:
        limits, top = self.limits(num_blocks), self.num_layers - 1
        fitting = {
            (start, end): _fitting(start, end, aux_choices, limits)
            for start, end in itertools.combinations(range(-1, top), 2)
        }
        ways = [
            {
                start: int(all(limit.allows(start, top) for limit in limits))
                for start in range(-1, top)
            }
        ]
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
        return fitting, ways

    def _decoupling(self, cuts: list[int], aux: list[str]) -> Decoupling:
        return Decoupling(
            backbone=self.compute.backbone, cuts=cuts, aux=aux, provenance=self.provenance
        )


def _fitting(start: int, end: int, names: Sequence[str], limits: Sequence[Limit]) -> list[str]:
    """Return the auxiliary networks that may end the block of layers start+1..end."""
    return [name for name in names if all(limit.allows(start, end, name) for limit in limits)]
