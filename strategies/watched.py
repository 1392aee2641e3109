"""What is to be seen of an experiment and its trials while they run, whoever runs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sedona_nni.errors import InputError

if TYPE_CHECKING:
    import psutil

    from sedona_nni.reporting.trial import AnyTrial

__all__ = ["Outcome", "TrialView", "Watched"]


@dataclass(frozen=True)
class TrialView:
    """What is to be seen of a trial from outside.

    Attributes:
        id: NNI's id; without NNI its key.
        parameters: What its source said.
        status: NNI's word: WAITING, RUNNING, ADD_RESUMED, SUCCEEDED, FAILED, USER_CANCELED, ...
        result: The final result as it was sent, None without one.
        started_at: Seconds since the epoch; of a trial that has not started infinite.
        ended_at: Likewise.
    """

    id: str
    parameters: dict[str, Any]
    status: str
    result: Any
    started_at: float = math.inf
    ended_at: float = math.inf

    @property
    def key(self) -> str:
        """The tuner's name of the trial, NNI's for one that is not the tuner's."""
        return str(self.parameters.get("key", self.id))

    @cached_property
    def trial(self) -> AnyTrial | None:
        """What it is, None of one that is not the tuner's."""
        from sedona_nni.reporting.trial import read_trial  # late: tuners start with this module

        try:
            return read_trial(self.parameters)
        except InputError:
            return None

    @property
    def is_training(self) -> bool:
        """Whether it is one of those that the experiment ranks."""
        return self.trial is not None and self.trial.kind != "search"

    @property
    def accuracy(self) -> float | None:
        """What the trial is ranked by, None without it."""
        default = self.result.get("default") if isinstance(self.result, dict) else None
        if isinstance(default, int | float) and math.isfinite(default):
            return float(default)
        return None

    @property
    def has_failed(self) -> bool:
        """Whether it ended without success."""
        return self.status in ("FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED")


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended.

    Attributes:
        exit_code: 0 if its work is done, 2 if the user can mend what went wrong, else 1.
        message: What went wrong, empty if nothing did.
    """

    exit_code: int
    message: str = ""


class Watched(Protocol):
    """An experiment that runs."""

    @property
    def id(self) -> str:
        """Its name for users, by which `sedona-nni report` knows it."""

    @property
    def folder(self) -> Path:
        """Where it and its trials leave what they need."""

    @property
    def checkpoint(self) -> Path:
        """The folder in which its source of trials keeps its state."""

    @property
    def concurrency(self) -> int:
        """How many trials run at the same time."""

    @property
    def has_finished(self) -> bool:
        """Whether every trial was run, and not just as many as the experiment's limits allow."""

    @property
    def again(self) -> str:
        """How to go on with it, in words, after "the experiment was stopped; "."""

    @property
    def beyond_limits(self) -> str:
        """How to go on where its limits have ended it, likewise."""

    def results_folder(self, within: Path) -> Path:
        """Return where what comes of it is to be left.

        Args:
            within: Where the user wants to have the results of experiments.
        """

    def polls(self) -> Iterator[tuple[list[TrialView], Outcome | None]]:
        """Yield the trials about every second, oldest first; the last time with the outcome."""

    def outcome(self) -> Outcome | None:
        """Return how the experiment ended, None while it has not."""

    def stopped(self) -> list[psutil.Process]:
        """Return its processes that a signal has stopped; it waits for them."""

    def reached_limit(self) -> str:
        """Return which limit has ended the experiment, e.g. ``"maxTrialNumber is 5"``."""

    def latest_intermediate(self, trial_id: str) -> dict[str, Any] | None:
        """Return what a trial has reported last, None if nothing yet."""

    def final_result(self, trial: TrialView) -> Any:
        """Return all of a trial's final result."""

    def last_words(self, trial_id: str) -> str:
        """Return the end of a trial's standard error."""
