"""The tuner that ``nnictl`` loads for studies; see `strategies.sources.study`."""

from __future__ import annotations

from sedona_nni.strategies.nni_border.tuner import BorderTuner

__all__ = ["StudyTuner"]


class StudyTuner(BorderTuner):
    """Hands out a trial for each replicate of each strategy; see `trials.study` for what it does.

    Settings: `sedona_nni.strategies.settings.studied`.
    """
