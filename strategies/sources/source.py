"""Where trials come from: what NNI's manager, or processes of our own, ask for the next one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sedona_nni.errors import SedonaError

__all__ = ["ExperimentFailedError", "Host", "Parameters", "TrialSource"]

Parameters: TypeAlias = dict[str, Any]


class ExperimentFailedError(SedonaError):
    """The experiment cannot go on."""


class Host(Protocol):
    """Who runs the trials.

    Attributes:
        lock: Held while it calls a source; whoever calls from another thread takes it.
    """

    lock: threading.RLock

    @property
    def checkpoint(self) -> Path:
        """The folder of what outlives the session."""

    @property
    def is_supervised(self) -> bool:
        """Whether ``sedona-nni run`` has started the experiment, and so has checked it before."""

    @property
    def free_slots(self) -> int:
        """How many more trials would run at the same time."""

    def experiment_config(self) -> dict[str, Any]:
        """Return the whole configuration of the experiment, paths made absolute."""

    def supply(self) -> None:
        """Start trials in free slots, and end the experiment when all is done.

        For sources that find out about new trials while nobody calls them.
        """

    def give_up(self, error: BaseException) -> None:
        """End the experiment and tell the user why."""


class TrialSource(ABC):
    """Says which trials there are to be, and learns what came of them.

    Its methods never run at the same time and must not block. Trials are identified by the
    ``"key"`` of their parameters, which a trial repeats in its final result.

    Attributes:
        tuner: ``className`` and ``classArgs`` of the experiment's tuner.
        host: Who runs the trials.
    """

    def __init__(self, tuner: Mapping[str, Any], host: Host) -> None:
        """Keep these for `configure`; nothing else happens here."""
        self.tuner = tuner
        self.host = host

    @abstractmethod
    def configure(self, search_space: dict[str, Any]) -> None:
        """Check the settings and load the state in the checkpoint; heavy imports go here.

        Raises:
            InputError: if a setting breaks a rule.
        """

    @abstractmethod
    def next_parameters(self) -> Parameters | None:
        """Return the parameters of the next trial, None while there is none to start."""

    @abstractmethod
    def finished(self) -> bool:
        """Return whether `next_parameters` will never return a trial again."""

    @abstractmethod
    def succeeded(self, parameters: Parameters, result: Any) -> None:
        """Take the final result of a trial.

        Called again for known results when an experiment is resumed.
        """

    @abstractmethod
    def failed(self, parameters: Parameters, reason: str) -> None:
        """Take note that a trial ended without a result."""

    def killed(self, parameters: Parameters, reason: str) -> None:
        """Take note that a trial was killed from outside, and so is not to blame itself."""
        self.failed(parameters, reason)

    def is_hopeless(self, parameters: Parameters, metrics: Any) -> bool:
        """Take what a trial reports on its way; return whether to stop it, which is its end.

        Called again for what it has reported already when an experiment is resumed.
        """
        return False

    def resumed(self, running: list[Parameters]) -> None:  # noqa: B027  some need not know
        """Take note of which trials are started again when an experiment is resumed."""

    def summary(self, parameters: Parameters) -> Mapping[str, Any]:
        """Return what of a trial the web UI gives an axis and a column: texts and numbers."""
        return parameters

    def remaining(self) -> int | None:
        """Return how many trials `next_parameters` will return from now on, None if unknown."""
        return None
