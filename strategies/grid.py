"""A tuner that trains every decoupling of a grid, with several seeds each: the ground truth.

It needs no results to go on, so an interrupted experiment goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sedona_nni.strategies.ledger_tuner import LedgerTuner
from sedona_nni.strategies.nni_border.tuner import Parameters

__all__ = ["GridTuner"]


class GridTuner(LedgerTuner):
    """Trains each decoupling of the grid with several seeds, the same for all decouplings.

    One trial trains one decoupling with all its seeds: starting a process and reading the data
    take as long as a short training. Settings: `sedona_nni.strategies.settings.GridSettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from sedona_nni.strategies.settings import GridSettings, read_settings

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
