"""The tuner that ``nnictl`` loads for a ground truth; see `strategies.sources.grid`."""

from __future__ import annotations

from sedona_nni.strategies.nni_border.tuner import BorderTuner

__all__ = ["GridTuner"]


class GridTuner(BorderTuner):
    """Trains each decoupling of a grid with several seeds, the same for all decouplings.

    Settings: `sedona_nni.strategies.settings.gridded`.
    """
