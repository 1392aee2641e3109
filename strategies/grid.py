"""A tuner that trains every decoupling of a list, with several seeds each: exhaustive ground truth.

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
    """Trains each decoupling of the grid once with each seed.

    Part by part; within a part the first seed of all decouplings, then the second, so that an
    experiment that is stopped early leaves something of use. Seeds are the same for all
    decouplings. Settings: `strategies.settings.GridSettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from strategies.settings import GridSettings, read_settings

        return read_settings(GridSettings, self.class_args, folder)

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        super().configure(search_space)
        self._trainings = [
            (part.name, decoupling, repetition)
            for part in self.settings.parts
            for repetition in range(part.seeds)
            for decoupling in self.settings.decouplings(part)
        ]

    def new_parameters(self) -> Parameters | None:
        """Return the next training."""
        if self.no_more():
            return None
        number = len(list(self.ledger))
        strategy, decoupling, repetition = self._trainings[number]
        train = self.settings.train
        parameters = self.training(strategy, number, decoupling, train, {})
        parameters["train"]["seed"] = train.seed + repetition
        return parameters

    def no_more(self) -> bool:
        """See `LedgerTuner.no_more`."""
        return len(list(self.ledger)) == len(self._trainings)

    def take(self, key: str, result: dict[str, Any]) -> None:
        """Do nothing: the grid does not depend on results."""

    def miss(self, key: str) -> None:
        """Do nothing: the training is not replaced."""
