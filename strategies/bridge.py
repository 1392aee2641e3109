"""The tuner that ``nnictl`` loads to explore; see `strategies.sources.exploring`."""

from __future__ import annotations

from sedona_nni.strategies.nni_border.tuner import BorderTuner

__all__ = ["BridgeTuner"]


class BridgeTuner(BorderTuner):
    """Trains the decouplings that one of NNI's strategies asks for, each once.

    Settings: `sedona_nni.strategies.settings.explored`.
    """
