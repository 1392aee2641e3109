"""A tuner for studies: strategies that choose decouplings, each tried several times.

It needs no results to go on, so an interrupted study goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sedona_nni.strategies.ledger_tuner import LedgerTuner
from sedona_nni.strategies.nni_border.tuner import Parameters

__all__ = ["StudyTuner"]


class StudyTuner(LedgerTuner):
    """Hands out a trial for each replicate of each strategy; see `trials.study` for what it does.

    Settings: `sedona_nni.strategies.study_settings.StudySettings`.
    """

    def read_settings(self, folder: Path) -> Any:
        """See `LedgerTuner.read_settings`."""
        from sedona_nni.strategies.settings import read_settings
        from sedona_nni.strategies.study_settings import StudySettings

        return read_settings(StudySettings, self.class_args, folder)

    def new_parameters(self) -> Parameters | None:
        """Return the next trial."""
        if self.no_more():
            return None
        strategy, replicate = self.settings.trials[sum(1 for _ in self.ledger)]
        return {
            "key": f"{strategy}-{replicate:03d}",
            "stage": "train",
            "strategy": strategy,
            "replicate": replicate,
            "decoupling": None,  # it trains several
            **self.settings.model_dump(mode="json"),
        }

    def no_more(self) -> bool:
        """See `LedgerTuner.no_more`."""
        return sum(1 for _ in self.ledger) == len(self.settings.trials)

    def take(self, key: str, result: dict[str, Any]) -> None:
        """Do nothing: what comes does not depend on results."""

    def miss(self, key: str) -> None:
        """Do nothing: the trial is not replaced."""
