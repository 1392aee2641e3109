"""Balanced cuts are the best of all, by trying all; more balanced than those made by hand."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from sedona_nni.decouplings.balance import balanced_decoupling
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.memory import compute_in_memory
from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, build_backbone
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form


def _compute(layers: list[int], auxiliary: list[int], starts: list[int] | None = None) -> Compute:
    costs = [{"conv1": each} for each in auxiliary]
    return Compute(
        backbone="mine", unit="macs", layers=layers, starts=starts or [], auxiliary=costs
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("aux", ["none", "conv1"])
def test_the_largest_block_is_as_small_as_can_be(seed: int, aux: str) -> None:
    draw = random.Random(seed)
    layers = [draw.randint(0, 9) for _ in range(7)] + [1]
    starts = [draw.randint(-1, 3) for _ in range(7)] if seed % 2 else None
    compute = _compute(layers, [draw.randint(0, 4) for _ in range(7)], starts)
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
    with pytest.raises(InputError, match="must include mlp at boundary 0, if it can stand there"):
        balanced_decoupling(compute, 2, "mlp")


def test_by_rule() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg11", num_classes=10)
    form = step_form(TrainSettings(batch_size=64))

    tables = {
        "macs": compute_in_macs(backbone, ["conv1"]),
        "memory": compute_in_memory(backbone, ["conv1"], form),
    }

    def costs(unit: str, aux: str) -> Compute:
        assert aux == "conv1"
        return tables[unit]

    for rule, unit in (("balanced", "macs"), ("memory-balanced", "memory")):
        found = decoupling_by_rule(f"{rule}:3:conv1", "vgg11", 8, costs)
        assert found == balanced_decoupling(costs(unit, "conv1"), 3, "conv1")
        assert found.aux == ["conv1", "conv1"]
        uniform = decoupling_by_rule("uniform:3:conv1", "vgg11", 8)
        table = costs(unit, "conv1")
        assert max(table.blocks(found)) < max(table.blocks(uniform))
        for text, message in ((f"{rule}:9:conv1", "num_blocks"), (f"{rule}:3", f"like {rule}:4:c")):
            with pytest.raises(InputError, match=message):
                decoupling_by_rule(text, "vgg11", 8, costs)
        with pytest.raises(InputError, match="must not be a balanced rule without costs, but got"):
            decoupling_by_rule(f"{rule}:3:conv1", "vgg11", 8)


@pytest.fixture(scope="module")
def resnet110() -> tuple[Backbone, Compute]:
    with torch.device("meta"):
        backbone = build_backbone("cifar-resnet110", num_classes=10)
    form = step_form(TrainSettings(batch_size=1024))
    return backbone, compute_in_memory(backbone, ["conv1"], form)


@pytest.mark.parametrize("counted_from", [0, 1])
def test_at_least_as_balanced_as_by_hand(
    counted_from: int, resnet110: tuple[Backbone, Compute]
) -> None:
    """InfoPro's memory-balanced cuts of ResNet-110 on CIFAR (Wang et al., ICLR 2021), by stage and
    residual block, whichever number its release counts blocks from."""
    backbone, memory = resnet110
    gained = []
    for by_hand in ([(1, 14)], [(1, 9), (2, 2)], [(1, 6), (1, 14), (2, 8)]):
        cuts = [
            backbone.layer_names.index(f"stage{stage}_{block + 1 - counted_from}")
            for stage, block in by_hand
        ]
        theirs = Decoupling(backbone=backbone.name, cuts=cuts, aux=["conv1"] * len(cuts))
        ours = balanced_decoupling(memory, theirs.num_blocks, "conv1")
        largest = [max(memory.blocks(each)) for each in (ours, theirs)]
        assert largest[0] <= largest[1]
        gained.append(largest[0] < largest[1])
    assert any(gained)
