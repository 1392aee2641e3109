"""Balanced cuts are the best of all, by trying all."""

from __future__ import annotations

import itertools
import random

import pytest

from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError


def _compute(layers: list[int], auxiliary: list[int]) -> Compute:
    costs = [{"conv1": each} for each in auxiliary]
    return Compute(backbone="mine", unit="macs", layers=layers, auxiliary=costs)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("aux", ["none", "conv1"])
def test_the_largest_block_is_as_small_as_can_be(seed: int, aux: str) -> None:
    draw = random.Random(seed)
    layers = [draw.randint(0, 9) for _ in range(7)] + [1]
    compute = _compute(layers, [draw.randint(0, 4) for _ in range(7)])
    for num_blocks in range(1, 9):

        def blocks(cuts: tuple[int, ...]) -> list[int]:
            aux_names = [aux] * len(cuts)
            return compute.blocks(Decoupling(backbone="mine", cuts=list(cuts), aux=aux_names))

        def worth(cuts: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
            costs = blocks(cuts)
            return max(costs), sum(cost**2 for cost in costs), cuts

        best = min(itertools.combinations(range(7), num_blocks - 1), key=worth)
        assert balanced_decoupling(compute, num_blocks, aux).cuts == list(best)


def test_mistakes() -> None:
    compute = _compute([1, 2, 3], [1, 1])
    with pytest.raises(InputError, match="num_blocks: must be from 1 to the number of layers, 3"):
        balanced_decoupling(compute, 4, "none")
    with pytest.raises(InputError, match="must include mlp at each boundary"):
        balanced_decoupling(compute, 2, "mlp")
