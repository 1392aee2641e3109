"""`sedona_nni.strategies.plan`: what comes next, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling, random_decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.plan import (
    Contender,
    NextSearch,
    NextTraining,
    Outcomes,
    Plan,
    decoupling_of,
    is_complete,
    next_step,
)

# Of eight layers; boundary 4 is where to cut, then 6, with conv2 everywhere
FOUND = SearchResult(
    backbone="vgg11",
    dataset="digits",
    aux_choices=["conv1", "conv2"],
    alpha=[(0, 1), (0, 1), (0, 1), (0, 1), (2, 0), (0, 1), (1, 0)],
    beta=[(0, 1)] * 7,
)
# Of which boundary 1 is best
OTHER = FOUND.model_copy(update={"alpha": [(0, 1), (2, 0), *[(0, 1)] * 5]})

SEARCHED = Contender("a", "a", 2)
SECOND = Contender("a-2", "a", 2, 1)
UNIFORM = Contender("uniform", "uniform", 2)
RANDOM = Contender("random", "random", 2)
BACKPROP = Contender("backprop", "backprop", 1)


def plan(*contenders: Contender, **changes: object) -> Plan:
    usual = Plan(
        backbone="vgg11",
        num_layers=8,
        main="a",
        searches=("a",),
        contenders=contenders,
        trials_per_strategy=2,
        choices={"uniform": ("mlp-sr",), "random": ("conv1", "conv2")},
        seed=3,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def cut(*cuts: int, aux: str = "conv2") -> Decoupling:
    return Decoupling(backbone="vgg11", cuts=list(cuts), aux=[aux] * len(cuts))


def test_searches_come_first_in_their_order() -> None:
    both = plan(SEARCHED, UNIFORM, searches=("a", "b"))
    assert next_step(both, Outcomes()) == NextSearch("a")
    assert next_step(both, Outcomes(searching=["a"])) == NextSearch("b")
    assert next_step(both, Outcomes(found={"a": FOUND})) == NextSearch("b")
    # A search that failed is neither under way nor has it found anything
    assert next_step(both, Outcomes(searching=["b"])) == NextSearch("a")


def test_what_needs_no_search_is_trained_meanwhile() -> None:
    this = plan(SEARCHED, UNIFORM, BACKPROP)
    under_way = Outcomes(searching=["a"])
    assert next_step(this, under_way) == NextTraining(UNIFORM, cut(3, aux="mlp-sr"))
    done = replace(under_way, handed_out={"uniform": 2, "backprop": 1})
    assert next_step(this, done) == NextTraining(BACKPROP, cut())
    nothing = replace(under_way, handed_out={"uniform": 2, "backprop": 2})
    assert next_step(this, nothing) is None
    assert not is_complete(this, nothing)


def test_the_one_with_the_fewest_trainings_is_next_and_of_equals_the_first() -> None:
    this = plan(SEARCHED, UNIFORM, BACKPROP)
    found = Outcomes(found={"a": FOUND}, searching=["a"])
    order = []
    handed_out = {"uniform": 1}
    while (step := next_step(this, replace(found, handed_out=handed_out))) is not None:
        assert isinstance(step, NextTraining)
        order.append(step.contender.name)
        handed_out = {**handed_out, order[-1]: handed_out.get(order[-1], 0) + 1}
    assert order == ["a", "backprop", "a", "uniform", "backprop"]
    assert is_complete(this, replace(found, handed_out=handed_out))


def test_failed_trainings_are_not_replaced() -> None:
    """What was handed out counts, whatever came of it."""
    done = Outcomes(found={"a": FOUND}, handed_out={"a": 2})
    assert next_step(plan(SEARCHED), done) is None
    assert is_complete(plan(SEARCHED), done)


def test_each_contender_trains_its_own() -> None:
    this = plan(SEARCHED, SECOND, UNIFORM, RANDOM, BACKPROP)
    found = {"a": FOUND}
    chosen = {each.name: decoupling_of(this, each, found) for each in this.contenders}
    assert chosen == {
        "a": cut(4),
        "a-2": cut(6),
        "uniform": cut(3, aux="mlp-sr"),
        "random": random_decoupling("vgg11", 8, 2, ("conv1", "conv2"), seed=3),
        "backprop": cut(),
    }


def test_each_strategy_that_searches_trains_what_its_own_search_found() -> None:
    other = Contender("b", "b", 2)
    this = plan(SEARCHED, other, searches=("a", "b"))
    assert decoupling_of(this, other, {"a": FOUND}) is None
    assert decoupling_of(this, other, {"a": FOUND, "b": OTHER}) == cut(1)


def test_a_number_of_blocks_that_is_left_to_the_search_is_everyones() -> None:
    """a^loc > a^up at two boundaries: three blocks."""
    free, uniform = Contender("a", "a", 0), Contender("uniform", "uniform", 0)
    this = plan(free, uniform)
    assert decoupling_of(this, uniform, {}) is None
    assert decoupling_of(this, free, {"a": FOUND}) == cut(4, 6)
    assert decoupling_of(this, uniform, {"a": FOUND}) == cut(1, 4, aux="mlp-sr")


def test_what_is_given_needs_no_search() -> None:
    mine = Contender("mine", "mine", 0)
    this = plan(
        Contender("given", "given", 2), mine, searches=(), main="given", given={"given": FOUND}
    )
    this = replace(this, given={**this.given, "mine": cut(5)})
    assert next_step(this, Outcomes()) == NextTraining(this.contenders[0], cut(4))
    first = Outcomes(handed_out={"given": 1})
    assert next_step(this, first) == NextTraining(mine, cut(5))


def test_a_bound_moves_what_is_chosen_and_not_what_cannot_be_moved() -> None:
    """The last layer has half of the compute: a block must end before it, at 6."""
    auxiliary: list[dict[str, int]] = [dict.fromkeys(("conv1", "conv2", "mlp-sr"), 0)] * 7
    compute = Compute(
        backbone="vgg11", unit="macs", layers=[1, 1, 1, 1, 1, 1, 1, 7], auxiliary=auxiliary
    )
    this = plan(SEARCHED, UNIFORM, RANDOM, BACKPROP, bound=BlockBound(compute, "0.5"))
    found = {"a": FOUND}
    for contender in this.contenders[:3]:
        chosen = decoupling_of(this, contender, found)
        assert chosen is not None
        assert chosen.cuts == [6]
    assert decoupling_of(this, BACKPROP, found) == cut()


def test_a_place_that_a_search_does_not_fill() -> None:
    first = SearchResult(
        backbone="dgl-cnn4", dataset="digits", aux_choices=["conv1"], alpha=[(1, 0)], beta=[(0,)]
    )
    this = replace(plan(Contender("a-3", "a", 2, 2)), backbone="dgl-cnn4", num_layers=2)
    with pytest.raises(InputError, match=r"leaders: must be at most 1, .* but got 3"):
        decoupling_of(this, this.contenders[0], {"a": first})
