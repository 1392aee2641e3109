"""Trainings of every decoupling of a grid, with several seeds each: the ground truth.

It needs no results to go on, so an interrupted experiment goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sedona_nni.strategies.sources.ledger import LedgerSource

if TYPE_CHECKING:
    from sedona_nni.reporting.trial import AnyResult, AnyTrial

__all__ = ["GridSource"]


class GridSource(LedgerSource):
    """Trains each decoupling of the grid with several seeds, the same for all decouplings.

    One trial trains one decoupling with all its seeds: starting a process and reading the data
    take as long as a short training. Settings: `sedona_nni.strategies.settings.gridded`.
    """

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `TrialSource.configure`."""
        super().configure(search_space)
        self._grid = {
            f"{part.name}-{number:03d}": (part, decoupling)
            for number, part, decoupling in self.settings.wanted
        }

    def new_trial(self) -> AnyTrial | None:
        """Return the next decoupling's trainings."""
        from sedona_nni.reporting.trial import RepeatedTrial

        key = self._next()
        if key is None:
            return None
        part, decoupling = self._grid[key]
        return RepeatedTrial(
            key=key,
            strategy=part.name,
            **self.common,
            decoupling=decoupling,
            train=self.settings.training.train.model_dump(mode="json"),
            repetitions=part.seeds,
        )

    def no_more(self) -> bool:
        """See `LedgerSource.no_more`."""
        return self._next() is None

    def _next(self) -> str | None:
        return next((key for key in self._grid if key not in self.ledger), None)

    def take(self, key: str, result: AnyResult) -> None:
        """Do nothing: the grid does not depend on results."""

    def miss(self, key: str) -> None:
        """Do nothing: the training is not replaced."""
