"""What every search strategy has to do, whatever it is: subclass and implement `explore`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.search_spaces import DecouplingSpace

VGG11_LAYERS = 8


@dataclass(frozen=True)
class Exploration:
    """What a strategy did.

    Attributes:
        spent: Budget used: decouplings tried or, for a one-shot strategy, steps.
        proposals: The decouplings it came up with, in order.
        trace: Everything else that must repeat to the bit.
    """

    spent: int
    proposals: list[Decoupling]
    trace: Any = None


def space(num_blocks: int | None) -> DecouplingSpace:
    """Return a space of small networks; it has 84 decouplings of 3 blocks."""
    return DecouplingSpace(
        "vgg11",
        ["conv1", "mlp"],
        num_classes=10,
        num_blocks=num_blocks,
        width_multiplier=0.0625,
    )


class StrategyConformance:
    """The suite. ``budget`` and ``stops`` are in units of `Exploration.spent`."""

    budget: int
    stops: tuple[int, ...]

    def explore(
        self,
        num_blocks: int | None,
        *,
        seed: int,
        budget: int,
        directory: Path,
        stop_after: int | None = None,
    ) -> Exploration:
        """Run the strategy.

        With ``stop_after`` it is stopped there, all objects are thrown away, and a new strategy
        continues from what was saved in ``directory`` or in a state dict.
        """
        raise NotImplementedError

    def test_respects_the_budget(self, tmp_path: Path) -> None:
        for budget in (self.budget // 2, self.budget):
            done = self.explore(3, seed=1, budget=budget, directory=tmp_path / str(budget))
            assert done.spent == budget

    @pytest.mark.parametrize("num_blocks", [1, 2, 4, VGG11_LAYERS])
    def test_k_blocks_have_k_minus_1_cuts(self, num_blocks: int, tmp_path: Path) -> None:
        done = self.explore(num_blocks, seed=1, budget=self.budget, directory=tmp_path)
        assert done.proposals
        for decoupling in done.proposals:
            assert decoupling.num_blocks == num_blocks
            assert len(decoupling.blocks(VGG11_LAYERS)) == num_blocks  # the cuts are boundaries
            assert set(decoupling.aux) <= {"conv1", "mlp"}

    def test_no_decoupling_is_proposed_twice(self, tmp_path: Path) -> None:
        done = self.explore(2, seed=1, budget=self.budget, directory=tmp_path)
        assert len(set(done.proposals)) == len(done.proposals)

    def test_same_seed_same_exploration(self, tmp_path: Path) -> None:
        one, again, other = (
            self.explore(3, seed=seed, budget=self.budget, directory=tmp_path / name)
            for name, seed in (("one", 1), ("again", 1), ("other", 2))
        )
        assert one == again
        assert one != other

    def test_stopped_and_continued_is_the_same_exploration(self, tmp_path: Path) -> None:
        whole = self.explore(3, seed=1, budget=self.budget, directory=tmp_path / "whole")
        for stop in self.stops:
            continued = self.explore(
                3, seed=1, budget=self.budget, directory=tmp_path / str(stop), stop_after=stop
            )
            assert continued == whole
