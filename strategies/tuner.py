"""The tuners that ``nnictl`` loads to search and to tune; see `strategies.sources.tuning`."""

from __future__ import annotations

from sedona_nni.strategies.nni_border.tuner import BorderTuner

__all__ = ["OptunaTuner", "ProbeTuner", "SearchTuner", "SedonaTuner"]


class OptunaTuner(BorderTuner):
    """Tunes the K-block training of a decoupling, and of those that it is compared with.

    Settings: `sedona_nni.strategies.settings.tuned`, with `strategies.settings.parts.Given`.
    """


class SearchTuner(OptunaTuner):
    """Searches for a decoupling, then tunes its training.

    The first trials are the searches, one for each strategy that searches. Decouplings to compare
    with need none, so their trainings fill free slots meanwhile. Settings:
    `sedona_nni.strategies.settings.tuned`, with `strategies.settings.parts.Searched`, and as
    ``strategy`` the name of the search, see `sedona_nni.searches.SEARCHES`.
    """


class SedonaTuner(SearchTuner):
    """Searches with SEDONA, see `sedona_nni.searches.sedona.search`."""


class ProbeTuner(SearchTuner):
    """Searches by short trainings, see `sedona_nni.searches.probing.probing`."""
