"""A tuner that trains every decoupling of a grid, with several seeds each: the ground truth.

It needs no results to go on, so an interrupted experiment goes on where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strategies.ledger_tuner import LedgerTuner
from strategies.nni_border.tuner import Parameters

if TYPE_CHECKING:
    from sedona_nni.decoupling import Decoupling

__all__ = ["GridTuner", "every_decoupling"]


def every_decoupling(
    backbone: str, num_layers: int, num_blocks: int, aux: Sequence[str]
) -> list[Decoupling]:
    """Return all (L-1 over K-1) C^(K-1) decouplings, by cuts and then by auxiliary networks.

    Args:
        backbone: Its name.
        num_layers: L.
        num_blocks: K, from 1 to L.
        aux: The C auxiliary networks to choose from.
    """
    from sedona_nni.decoupling import Decoupling

    return [
        Decoupling(backbone=backbone, cuts=list(cuts), aux=list(names))
        for cuts in itertools.combinations(range(num_layers - 1), num_blocks - 1)
        for names in itertools.product(aux, repeat=num_blocks - 1)
    ]


class GridTuner(LedgerTuner):
    """Trains each decoupling of the grid with several seeds, the same for all decouplings.

    One trial trains one decoupling with all its seeds: starting a process and reading the data
    take as long as a short training. Settings: `strategies.settings.GridSettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from strategies.settings import GridSettings, read_settings

        return read_settings(GridSettings, self.class_args, folder)

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        super().configure(search_space)
        self._grid = [
            (part, decoupling)
            for part in self.settings.parts
            for decoupling in self.settings.decouplings(part)
        ]

    def new_parameters(self) -> Parameters | None:
        """Return the next decoupling's trainings."""
        if self.no_more():
            return None
        number = sum(1 for _ in self.ledger)
        part, decoupling = self._grid[number]
        train = self.settings.train
        parameters = self.training(part.name, number, decoupling, train, {})
        parameters["train"]["seed"] = train.seed
        return {**parameters, "repetitions": part.seeds}

    def no_more(self) -> bool:
        """See `LedgerTuner.no_more`."""
        return sum(1 for _ in self.ledger) == len(self._grid)

    def take(self, key: str, result: dict[str, Any]) -> None:
        """Do nothing: the grid does not depend on results."""

    def miss(self, key: str) -> None:
        """Do nothing: the training is not replaced."""
