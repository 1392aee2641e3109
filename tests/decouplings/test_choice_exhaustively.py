"""`decouplings.choice` against trying out every decoupling, on small random instances."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from sedona_nni.decouplings.bounds import BlockBound, allowed_share
from sedona_nni.decouplings.choice import discretise, leaders, pareto_front
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.sedona.result import SearchResult

NAMES = ["a", "b", "c"]
BOUNDS = ["0.2", "0.35", "0.5", "0.8", "1", "1/K", "1.3/K", "2/K"]


def instance(seed: int, layers: int | None = None) -> tuple[Compute, SearchResult, str, int]:
    """A compute, a search result with many ties, a bound and a K."""
    rng = np.random.default_rng(seed)
    count = layers or int(rng.integers(1, 8))
    compute = Compute(
        backbone="mine",
        unit="macs",
        layers=[1 + int(c) for c in rng.integers(0, 20, count)],
        auxiliary=[{name: int(rng.integers(0, 8)) for name in NAMES} for _ in range(count - 1)],
    )
    result = SearchResult(
        backbone="mine",
        dataset="digits",
        aux_choices=NAMES,
        alpha=[(float(rng.choice([-2, -0.5, 0, 0.1, 0.3, 3])), 0.0) for _ in range(count - 1)],
        beta=[[float(b) for b in rng.integers(0, 3, 3)] for _ in range(count - 1)],
    )
    return compute, result, BOUNDS[int(rng.integers(len(BOUNDS)))], int(rng.integers(1, count + 1))


def all_cuts(compute: Compute, num_blocks: int) -> Iterator[list[int]]:
    boundaries = range(len(compute.layers) - 1)
    return map(list, itertools.combinations(boundaries, num_blocks - 1))


def share(compute: Compute, cuts: list[int], aux: list[str]) -> Fraction:
    """The largest block's share, written out once more."""
    blocks = []
    for start, end in itertools.pairwise([-1, *cuts, len(compute.layers) - 1]):
        extra = compute.auxiliary[end][aux[cuts.index(end)]] if end in cuts else 0
        blocks.append(sum(compute.layers[layer] for layer in range(start + 1, end + 1)) + extra)
    return Fraction(max(blocks), sum(compute.layers))


def exact_evidence(result: SearchResult, cuts: list[int]) -> Fraction:
    return sum((Fraction(result.alpha[cut][0]) for cut in cuts), Fraction(0))


def preferred(result: SearchResult, cuts: list[int]) -> list[str]:
    return [result.aux_choices[result.beta[cut].index(max(result.beta[cut]))] for cut in cuts]


def by_rule(result: SearchResult, num_blocks: int) -> list[int]:
    """Cut where a^loc is largest, of equals at the lower boundaries; for K = 0 where it wins."""
    margins = [local - up for local, up in result.alpha]
    if num_blocks == 0:
        return [i for i, margin in enumerate(margins) if margin > 0]
    best = sorted(range(len(margins)), key=lambda i: (-margins[i], i))
    return sorted(best[: num_blocks - 1])


SEEDS = range(400)


def test_discretise_is_the_best_of_all() -> None:
    """Most evidence within the bound; of equals the first in lexicographic order."""
    outcomes: Counter[object] = Counter()
    for seed in SEEDS:
        compute, result, bound, count = instance(seed)
        possible = [
            cuts
            for cuts in all_cuts(compute, count)
            if share(compute, cuts, preferred(result, cuts)) <= allowed_share(bound, count)
        ]
        if possible:
            best = min(possible, key=lambda cuts: (-exact_evidence(result, cuts), cuts))
            found = discretise(result, count, BlockBound(compute, bound))
            assert found == Decoupling(backbone="mine", cuts=best, aux=preferred(result, best))
            outcomes[found.cuts == by_rule(result, count)] += 1
        else:
            with pytest.raises(InputError, match="max_block_share: must be at least"):
                discretise(result, count, BlockBound(compute, bound))
            outcomes["none"] += 1
    assert min(outcomes[True], outcomes[False], outcomes["none"]) > 20


def test_an_open_number_of_blocks_is_the_best_of_all_numbers() -> None:
    for seed in SEEDS[:150]:
        compute, result, bound, _ = instance(seed)
        possible = [
            cuts
            for count in range(1, len(compute.layers) + 1)
            for cuts in all_cuts(compute, count)
            if share(compute, cuts, preferred(result, cuts)) <= allowed_share(bound, count)
        ]
        if possible:
            best = min(possible, key=lambda c: (-exact_evidence(result, c), len(c), c))
            assert discretise(result, 0, BlockBound(compute, bound)).cuts == best
        else:
            with pytest.raises(InputError, match="for any number of blocks"):
                discretise(result, 0, BlockBound(compute, bound))


def test_leaders_are_the_best_of_all_in_order() -> None:
    """With and without a bound, for a K and for any; where there are fewer, all."""
    fewer = 0
    for seed in SEEDS[:150]:
        compute, result, bound, count = instance(seed)
        for num_blocks, limit in itertools.product((count, 0), (None, BlockBound(compute, bound))):
            possible = [
                cuts
                for k in ([num_blocks] if num_blocks else range(1, len(compute.layers) + 1))
                for cuts in all_cuts(compute, k)
                if limit is None
                or share(compute, cuts, preferred(result, cuts)) <= allowed_share(bound, k)
            ]
            possible.sort(key=lambda c: (-exact_evidence(result, c), len(c), c))
            if possible:
                found = leaders(result, num_blocks, 5, limit)
                assert [each.cuts for each in found] == possible[:5]
                assert [each.aux for each in found] == [preferred(result, c) for c in possible[:5]]
                assert found[0].provenance == discretise(result, num_blocks, limit).provenance
                fewer += len(found) < 5
    assert fewer > 50


def test_counting_stops_where_it_is_told_to() -> None:
    for seed in SEEDS[:100]:
        compute, _, bound, count = instance(seed)
        ends = BlockBound(compute, bound).ends([NAMES] * (len(compute.layers) - 1))
        within = sum(
            share(compute, cuts, [min(NAMES, key=compute.auxiliary[c].get) for c in cuts])
            <= allowed_share(bound, count)
            for cuts in all_cuts(compute, count)
        )
        assert BlockBound(compute, bound).count(count, ends, 4) == min(within, 4)


@pytest.mark.slow(reason="builds large networks")
def test_a_bound_that_all_respect_changes_nothing() -> None:
    """The published rule is the case without a bound, for every K, ties included."""
    for seed in SEEDS[:100]:
        compute, result, _, _ = instance(seed, layers=6)
        free = compute.model_copy(update={"auxiliary": [dict.fromkeys(NAMES, 0)] * 5})
        for count in range(7):
            bounded = discretise(result, count, BlockBound(free, "1"))
            assert bounded == discretise(result, count)
            assert bounded.cuts == by_rule(result, count)
            assert bounded.aux == preferred(result, bounded.cuts)


def test_sums_of_evidence_are_exact() -> None:
    """In float64, 1e17 + 1 + 1 would be 1e17 + 0."""
    result = SearchResult(
        backbone="mine",
        dataset="digits",
        aux_choices=["a"],
        alpha=[(0.0, 0.0), (0.5, 0.0), (1e-30, 0.0), (1e17, 0.0), (1e-31, 0.0)],
        beta=[[0.0]] * 5,
    )
    compute = Compute(backbone="mine", unit="macs", layers=[1] * 6, auxiliary=[{"a": 0}] * 5)
    for count, cuts in [(2, [3]), (3, [1, 3]), (4, [1, 2, 3]), (5, [1, 2, 3, 4])]:
        assert discretise(result, count, BlockBound(compute, "1")).cuts == cuts


def test_nearest_is_the_nearest_of_all() -> None:
    for seed in SEEDS:
        compute, _, bound, count = instance(seed)
        rng = np.random.default_rng(seed)
        boundaries = len(compute.layers) - 1
        wish = sorted(int(c) for c in rng.choice(boundaries, count - 1, replace=False))
        aux = [list(rng.permutation(NAMES)[: rng.integers(1, 4)]) for _ in range(boundaries)]
        allowed = allowed_share(bound, count)
        possible = [
            cuts
            for cuts in all_cuts(compute, count)
            if any(
                share(compute, cuts, list(names)) <= allowed
                for names in itertools.product(*(aux[cut] for cut in cuts))
            )
        ]
        if not possible:
            with pytest.raises(InputError, match="max_block_share: must be at least"):
                BlockBound(compute, bound).nearest(wish, aux)
            continue
        best = min(
            possible,
            key=lambda cuts: (sum(abs(a - b) for a, b in zip(cuts, wish, strict=True)), cuts),
        )
        found = BlockBound(compute, bound).nearest(wish, aux)
        assert found.cuts == best
        assert share(compute, found.cuts, found.aux) <= allowed
        for k, cut in enumerate(found.cuts):  # preferred names do not fit
            for name in aux[cut][: aux[cut].index(found.aux[k])]:
                other = [*found.aux[:k], name, *found.aux[k + 1 :]]
                assert share(compute, found.cuts, other) > allowed


def test_the_front_is_the_front_of_all() -> None:
    for seed in SEEDS:
        compute, result, bound, count = instance(seed)
        points = {
            (exact_evidence(result, cuts), share(compute, cuts, preferred(result, cuts)))
            for cuts in all_cuts(compute, count)
        }
        for limit in (None, bound):
            within = [p for p in points if limit is None or p[1] <= allowed_share(limit, count)]
            front = [
                (e, s)
                for e, s in within
                if not any((f >= e and t <= s) and (f, t) != (e, s) for f, t in within)
            ]
            if not front:
                with pytest.raises(InputError, match="max_block_share: must be at least"):
                    pareto_front(result, count, compute, limit)
                continue
            found = pareto_front(result, count, compute, limit)
            assert [
                (exact_evidence(result, p.decoupling.cuts), p.largest_share) for p in found
            ] == sorted(((e, float(s)) for e, s in front), reverse=True)
            assert [p.evidence for p in found] == pytest.approx(
                [float(exact_evidence(result, p.decoupling.cuts)) for p in found]
            )


def test_the_smallest_share_that_is_told_is_the_smallest() -> None:
    """What the message names is possible, and 0.0001 less is not."""
    told = 0
    for seed in SEEDS[:100]:
        compute, _, _, count = instance(seed)
        for form, unit in (("0.01", ""), ("0.01/K", "/K")):
            bound = BlockBound(compute, form)
            ends = bound.ends([NAMES] * (len(compute.layers) - 1))
            smallest = min(
                share(compute, cuts, list(names))
                for cuts in all_cuts(compute, count)
                for names in itertools.product(NAMES, repeat=count - 1)
            )
            with pytest.raises(InputError) as caught:
                bound.check(count, ends)
            number = str(caught.value).split("at least ")[1].split(" for")[0]
            if smallest <= 1:
                BlockBound(compute, number).check(count, ends)
                told += 1
            value = Fraction(number.removesuffix("/K"))
            step = Fraction(1, 10**4)
            exact = smallest * (count if unit else 1)
            assert value - step < exact <= value
    assert told > 150


@pytest.mark.slow(reason="builds large networks")
@pytest.mark.parametrize("bound", ["0.5", "1.5/K"])
def test_random_is_uniform_over_all_within_the_bound(bound: str) -> None:
    compute, _, _, _ = instance(17, layers=6)
    allowed = allowed_share(bound, 3)
    every = {
        Decoupling(backbone="mine", cuts=cuts, aux=list(names))
        for cuts in all_cuts(compute, 3)
        for names in itertools.product(NAMES, repeat=2)
        if share(compute, cuts, list(names)) <= allowed
    }
    assert 5 < len(every) < 90
    rng = np.random.default_rng(3)
    draws = Counter(BlockBound(compute, bound).random(3, NAMES, rng) for _ in range(4000))
    assert set(draws) == every
    expected = 4000 / len(every)
    chi_square = sum((n - expected) ** 2 / expected for n in draws.values())
    freedom = len(every) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_random_of_every_number_of_blocks_is_within_the_bound() -> None:
    for seed in SEEDS[:150]:
        compute, _, form, count = instance(seed)
        bound, rng = BlockBound(compute, form), np.random.RandomState(seed)
        try:
            drawn = bound.random(count, NAMES, rng)
        except InputError:
            assert all(
                share(compute, cuts, list(names)) > allowed_share(form, count)
                for cuts in all_cuts(compute, count)
                for names in itertools.product(NAMES, repeat=count - 1)
            )
            continue
        assert drawn.num_blocks == count
        assert bound.respects(drawn)
        assert share(compute, drawn.cuts, drawn.aux) <= allowed_share(form, count)
