"""Studies: strategies that choose decouplings, each tried several times.

It needs no results to go on, so an interrupted study goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sedona_nni.strategies.sources.ledger import LedgerSource

if TYPE_CHECKING:
    from sedona_nni.reporting.trial import AnyResult, AnyTrial

__all__ = ["StudySource"]


class StudySource(LedgerSource):
    """Hands out a trial for each replicate of each strategy; see `trials.study` for what it does.

    Settings: `sedona_nni.strategies.settings.studied`.
    """

    def new_trial(self) -> AnyTrial | None:
        """Return the next trial."""
        from sedona_nni.strategies.settings.studied import study_trial

        if self.no_more():
            return None
        strategy, replicate = self.settings.trials[len(self.ledger)]
        return study_trial(self.settings, strategy, replicate)

    def no_more(self) -> bool:
        """See `LedgerSource.no_more`."""
        return len(self.ledger) == len(self.settings.trials)

    def take(self, key: str, result: AnyResult) -> None:
        """Do nothing: what comes does not depend on results."""

    def miss(self, key: str) -> None:
        """Do nothing: the trial is not replaced."""
