"""What our sources have in common: trials with a key, entered in a ledger."""

from __future__ import annotations

import logging
import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedona_nni.files import check_room
from sedona_nni.machine import Machine, usable_cores
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.sources.source import ExperimentFailedError, Parameters, TrialSource

if TYPE_CHECKING:
    from sedona_nni.reporting.trial import AnyResult, AnyTrial

__all__ = ["LedgerSource"]

_FAILURES_TO_GIVE_UP = 3
_RESTARTS = 2  # of a trial that was killed

_logger = logging.getLogger(__name__)


class LedgerSource(TrialSource):
    """Keeps a ledger of its trials, goes by it after a resume, and gives up if all fail.

    PyTorch is imported when it is configured.
    """

    @abstractmethod
    def new_trial(self) -> AnyTrial | None:
        """Return a new trial, None while there is none to start."""

    @abstractmethod
    def no_more(self) -> bool:
        """Return whether there will never be a new trial again."""

    @abstractmethod
    def take(self, key: str, result: AnyResult) -> None:
        """Use the result of a trial; for known ones again after a resume."""

    @abstractmethod
    def miss(self, key: str) -> None:
        """Take note that a trial failed."""

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `TrialSource.configure`."""
        from sedona_nni.reporting.ledger import Ledger
        from sedona_nni.strategies.experiment import Experiment, check_no_assessor, check_trials
        from sedona_nni.strategies.settings import read_settings

        config = self.host.experiment_config()
        check_no_assessor(config)
        check_trials(config, os.environ.get("PATH", os.defpath))
        self.folder = Path(config["trialCodeDirectory"])
        settings: Any = read_settings(self.tuner, self.folder)
        self.settings: Any = replace(settings, machine=_shared(settings.machine, config))
        if not self.host.is_supervised:  # else that is done
            platform = config.get("trainingService", {}).get("platform", "")
            Experiment(self.settings, self.folder, platform).check_machine()
        self.ledger = Ledger(self.host.checkpoint / LEDGER_FILE)
        self._lost: list[AnyTrial] = []
        self._kills: Counter[str] = Counter()

    @property
    def common(self) -> dict[str, Any]:
        """What all trials of the experiment have."""
        settings = self.settings
        return {
            "task": settings.training.task,
            "machine": settings.machine,
            "plugins": settings.plugins.plugins,
        }

    def resumed(self, running: list[Parameters]) -> None:
        """See `TrialSource.resumed`."""
        again = {parameters["key"] for parameters in running}
        self._lost = [
            record.parameters
            for record in self.ledger
            if record.status == "running" and record.key not in again
        ]

    def next_parameters(self) -> Parameters | None:
        """Return a trial that the host has lost, or a new one."""
        if self._lost:
            return _sent(self._lost.pop(0))
        trial = self.new_trial()
        if trial is None:
            return None
        self.ledger.start(trial)
        return _sent(trial)

    def summary(self, parameters: Parameters) -> Mapping[str, Any]:
        """See `TrialSource.summary`."""
        return self.ledger[parameters["key"]].parameters.summary

    def remaining(self) -> int:
        """See `TrialSource.remaining`; a tuner may run out of trials before."""
        handed_out = len(self.ledger)
        return len(self._lost) + max(0, int(self.settings.num_trials) - handed_out)

    def finished(self) -> bool:
        """See `TrialSource.finished`."""
        return not self._lost and self.no_more()

    def judge(self, key: str, epoch: int, accuracy: float) -> bool:
        """Return whether a training with this validation accuracy after an epoch is hopeless."""
        return False

    def is_hopeless(self, parameters: Parameters, metrics: Any) -> bool:
        """See `TrialSource.is_hopeless`; only trainings are judged."""
        from sedona_nni.reporting.trial import TrainTrial

        record = self.ledger[parameters["key"]]
        if record.status == "stopped":  # and was started again by a resume
            return True
        if not isinstance(record.parameters, TrainTrial) or not isinstance(metrics, dict):
            return False
        accuracy, epoch = metrics.get("default", math.nan), metrics.get("epoch")
        if epoch is None or not math.isfinite(accuracy):
            return False
        if not self.judge(record.key, int(epoch), float(accuracy)):
            return False
        epochs = int(metrics.get("epochs") or record.parameters.settings["epochs"])
        reason = (
            f"stopped early after epoch {epoch:.0f} of {epochs}, validation accuracy {accuracy:.1%}"
        )
        self.ledger.stop(record.key, reason, min(1.0, epoch / epochs))
        return True

    def succeeded(self, parameters: Parameters, result: Any) -> None:
        """See `TrialSource.succeeded`."""
        from sedona_nni.errors import InputError
        from sedona_nni.reporting.trial import read_result

        key = parameters["key"]
        if key not in self.ledger:
            _logger.warning("ignored the result of a trial that is not ours: %s", key)
            return
        record = self.ledger[key]
        if record.status == "stopped":  # at the moment of its end
            return
        if record.result is not None:  # seen again after a resume
            self.take(key, record.result)
            return
        try:
            known = read_result(record.parameters, result)
        except InputError as error:
            self.failed(parameters, f"its result makes no sense: {error}")
            return
        self._check_same_data(key, known)
        self.ledger.succeed(key, known)
        self.take(key, known)
        if not self.host.is_supervised:  # else `sedona-nni run` does, at the end
            self._keep_best()

    def _keep_best(self) -> None:
        from sedona_nni.errors import UnwritableError
        from sedona_nni.strategies.best_model import BEST_FOLDER, keep_best

        checkpoint = self.host.checkpoint
        try:
            keep_best(self.ledger, checkpoint.parent, checkpoint / BEST_FOLDER)
        except (OSError, UnwritableError) as error:  # a full disk is no reason to end all
            _logger.warning("the best network could not be copied: %s", error)

    def _check_same_data(self, key: str, result: AnyResult) -> None:
        """Check that a trial has had the images and the file of weights of those before; versions
        ago none said which.

        Raises:
            ExperimentFailedError: if not: results would not be comparable.
        """
        for record in self.ledger:
            before = record.result
            if before is None:
                continue
            for what, changed, now, then in (
                ("images", "the data have changed", result.data, before.data),
                ("first weights", "their file has changed", result.weights, before.weights),
            ):
                if now and then and now != then:
                    reason = f"its {what} are others than those of {record.key}: {changed}"
                    self.ledger.fail(key, reason)
                    raise ExperimentFailedError(f"{key}: {reason}")

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Enter a failed training; give up if there are only such.

        Raises:
            UnwritableError: if it may be the disk that is to blame; the trial then counts as
                running, for an experiment that goes on.
            ExperimentFailedError: if it looks as if no training could succeed.
        """
        key = parameters["key"]
        if self.ledger[key].status in ("succeeded", "stopped"):  # and run again after a resume
            return
        check_room(self.host.checkpoint)  # or all trials fail, that would run where there is some
        self.ledger.fail(key, reason)
        self.miss(key)
        statuses = [record.status for record in self.ledger if not record.is_search]
        failures = statuses.count("failed")
        was_last = self.finished() and "running" not in statuses
        if "succeeded" not in statuses and (failures >= _FAILURES_TO_GIVE_UP or was_last):
            raise ExperimentFailedError(f"all of the first {failures} trainings failed; {reason}")

    def killed(self, parameters: Parameters, reason: str) -> None:
        """Hand the trial out once more, before all others; not for ever: the system kills one that
        needs more memory than there is."""
        key = parameters["key"]
        self._kills[key] += 1
        if self._kills[key] > _RESTARTS:
            self.failed(parameters, f"{reason}\nwhich was so {self._kills[key]} times")
        elif self.ledger[key].status not in ("succeeded", "stopped"):
            self._lost.append(self.ledger[key].parameters)


def _shared(machine: Machine, config: Mapping[str, Any]) -> Machine:
    """Return what each of several trials on this machine may use of it at the same time.

    Threads of all would be as many as processors for each trial, and wait for each other spinning.
    """
    number = int(config.get("trialConcurrency") or 1)
    on_this_machine = config.get("trainingService", {}).get("platform") == "local"
    if machine.threads is not None or number == 1 or not on_this_machine:
        return machine
    return machine.model_copy(update={"threads": max(1, usable_cores() // number)})


def _sent(trial: AnyTrial) -> Parameters:
    return trial.model_dump(mode="json", exclude_none=True)
