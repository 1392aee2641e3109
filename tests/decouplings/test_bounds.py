"""`decouplings.bounds`: bounds as they are written; bounds on memory, and on both."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from sedona_nni.decouplings.bounds import (
    BlockBound,
    BlockMemory,
    BlockShare,
    allowed_memory,
    allowed_share,
)
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError


@pytest.mark.parametrize(
    ("text", "num_blocks", "share"),
    [
        ("0.4", 4, Fraction(2, 5)),
        ("1", 4, Fraction(1)),
        ("1.3/K", 4, Fraction(13, 40)),
        ("1/K", 3, Fraction(1, 3)),  # and not the float below it
        (" 2 / K ", 4, Fraction(1, 2)),
    ],
)
def test_bounds_as_users_write_them(text: str, num_blocks: int, share: Fraction) -> None:
    assert allowed_share(text, num_blocks) == share


@pytest.mark.parametrize(
    "text", ["0", "-0.1", "1.5", "0.4/k", "1.3/", "/K", "1.3/4", "much", "nan"]
)
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(InputError, match=r"max_block_share: must be a share .*e\.g\. 1\.3/K, but"):
        allowed_share(text, 4)
    with pytest.raises(ValidationError):
        TypeAdapter(BlockShare).validate_python(text)


def test_a_bound_in_yaml_may_be_a_number() -> None:
    assert TypeAdapter(BlockShare).validate_python(0.4) == "0.4"


@pytest.mark.parametrize(
    ("text", "num_blocks", "allowed"),
    [
        ("512", 4, 512 * 2**20),
        ("0.5", 1, 2**19),
        ("1.3/K", 4, Fraction(13, 40) * 1000),
    ],
)
def test_bounds_on_memory(text: str, num_blocks: int, allowed: Fraction) -> None:
    assert allowed_memory(text, num_blocks, 1000) == allowed


@pytest.mark.parametrize("text", ["0", "-1", "1/k", "512MiB", "inf"])
def test_what_is_no_bound_on_memory(text: str) -> None:
    with pytest.raises(InputError, match=r"max_block_memory: must be MiB above 0, .* 1\.3/K, but"):
        allowed_memory(text, 4, 1000)
    with pytest.raises(ValidationError):
        TypeAdapter(BlockMemory).validate_python(text)


MIB = 2**20
COMPUTE = Compute(backbone="mine", unit="macs", layers=[4, 3, 2, 1], auxiliary=[{"a": 1}] * 3)
MEMORY = Compute(
    backbone="mine",
    unit="bytes",
    layers=[8 * MIB, 2 * MIB, 2 * MIB, 8 * MIB],
    starts=[MIB, 0, -MIB],
    auxiliary=[{"a": MIB}, {"a": MIB}, {"a": 3 * MIB}],
    provenance={"batch_size": 4},
)


def cut(*cuts: int) -> Decoupling:
    return Decoupling(backbone="mine", cuts=list(cuts), aux=["a"] * len(cuts))


def test_a_bound_on_memory_is_kept() -> None:
    """By hand: blocks of cut 0 take 9 and 13 MiB, of cut 1 11 and 10, of cut 2 15 and 7."""
    bound = BlockBound(COMPUTE, None, MEMORY, "11.5")
    assert [bound.respects(cut(place)) for place in range(3)] == [False, True, False]
    assert bound.nearest([2], [["a"]] * 3).cuts == [1]
    assert bound.nearest([2], [["a"]] * 3).provenance == {
        "max_block_memory": "11.5",
        "memory": {"batch_size": 4},
    }
    assert bound.random(2, ["a"], np.random.default_rng(0)).cuts == [1]
    with pytest.raises(InputError) as caught:
        bound.require(cut(0), "given")
    assert str(caught.value) == (
        "given: must respect max_block_memory 11.5, but the largest block of 'cut after layer 0 "
        "(a)' takes 13.0 MiB"
    )
    ends = bound.ends([["a"]] * 3)
    for text, least in (("10.9", "11"), ("1.05/K", "1.1/K")):  # back-propagation takes 20 MiB
        with pytest.raises(InputError) as caught:
            BlockBound(COMPUTE, None, MEMORY, text).check(2, ends)
        assert str(caught.value) == (
            f"max_block_memory: must be at least {least} for 2 blocks of mine, but got {text!r}"
        )
        BlockBound(COMPUTE, None, MEMORY, least).check(2, ends)


def test_bounds_on_compute_and_memory_at_once() -> None:
    """Cut 0 is balanced in compute (5 and 6 of 10), cut 1 in memory; none is in both."""
    both = BlockBound(COMPUTE, "0.6", MEMORY, "12")
    ends = both.ends([["a"]] * 3)
    with pytest.raises(InputError) as caught:
        both.check(2, ends, " with a")
    assert str(caught.value) == (
        "max_block_memory: must be at least 13 for 2 blocks of mine with a within "
        "max_block_share 0.6, but got '12'"
    )
    loose = BlockBound(COMPUTE, "0.6", MEMORY, "13")
    assert loose.nearest([1], [["a"]] * 3).cuts == [0]
    assert loose.count(2, ends, 9) == 1
    assert [*loose.provenance] == ["max_block_share", "compute", "max_block_memory", "memory"]
    with pytest.raises(InputError, match=r"max_block_share: must be at least 0\.6 for 2 blocks"):
        BlockBound(COMPUTE, "0.5", MEMORY, "13").check(2, ends)


def test_of_several_auxiliary_networks_one_has_to_fit_both_bounds() -> None:
    """One is cheap to compute and one to keep: no block can end there within both."""
    compute = Compute(
        backbone="mine", unit="macs", layers=[1, 1], auxiliary=[{"fast": 0, "small": 9}]
    )
    memory = Compute(
        backbone="mine", unit="bytes", layers=[MIB, MIB], auxiliary=[{"fast": 9 * MIB, "small": 0}]
    )
    names = [["fast", "small"]]
    for most, possible in ((5, False), (10, True)):
        bound = BlockBound(compute, "0.5", memory, str(most))
        assert bool(bound.count(2, bound.ends(names), 1)) == possible
        every = bound.ends(names, costliest=True)
        assert bound.count(2, every, 1) == 0
