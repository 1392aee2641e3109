"""What our tuners have in common: trials with a key, entered in a ledger."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedona_nni.strategies.nni_border.tuner import BorderTuner, ExperimentFailedError, Parameters

if TYPE_CHECKING:
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.training.settings import TrainSettings

__all__ = ["COMPUTE_FILE", "LEDGER_FILE", "LedgerTuner"]

COMPUTE_FILE = "compute.json"  # measured once, so that a resumed experiment goes by the same
LEDGER_FILE = "trials.json"

_FAILURES_TO_GIVE_UP = 3

_logger = logging.getLogger(__name__)


class LedgerTuner(BorderTuner):
    """Keeps a ledger of its trials, goes by it after a resume, and gives up if all fail.

    Light at import: NNI kills a tuner that is not ready after 10 seconds. PyTorch is imported when
    it is configured.
    """

    @abstractmethod
    def read_settings(self, folder: Path) -> Any:
        """Return the tuner's settings; relative paths in them are relative to ``folder``."""

    @abstractmethod
    def new_parameters(self) -> Parameters | None:
        """Return the parameters of a new trial, None while there is none to start."""

    @abstractmethod
    def no_more(self) -> bool:
        """Return whether there will never be a new trial again."""

    @abstractmethod
    def take(self, key: str, result: dict[str, Any]) -> None:
        """Use the result of a trial; for known ones again after a resume."""

    @abstractmethod
    def miss(self, key: str) -> None:
        """Take note that a trial failed."""

    def configure(self, search_space: dict[str, Any]) -> None:
        """See `BorderTuner.configure`."""
        from sedona_nni.reporting.ledger import Ledger
        from sedona_nni.strategies.experiment import Experiment, check_no_assessor, check_trials

        config = self.experiment_config()
        check_no_assessor(config)
        check_trials(config)
        self.folder = Path(config["trialCodeDirectory"])
        self.settings = self.read_settings(self.folder)
        if not self.is_supervised:  # else that is done
            platform = config.get("trainingService", {}).get("platform", "")
            Experiment(self.settings, self.folder, platform).check_machine()
        self.ledger = Ledger(self.checkpoint / LEDGER_FILE)
        self._lost: list[Parameters] = []

    def resumed(self, running: list[Parameters]) -> None:
        """See `BorderTuner.resumed`."""
        again = {parameters["key"] for parameters in running}
        self._lost = [
            record.parameters
            for record in self.ledger
            if record.status == "running" and record.key not in again
        ]

    def next_parameters(self) -> Parameters | None:
        """Return a trial that NNI has lost, or a new one."""
        if self._lost:
            return self._lost.pop(0)
        parameters = self.new_parameters()
        if parameters is not None:
            if self.settings.plugins:  # the trial loads them before it reads the rest
                parameters["plugins"] = list(self.settings.plugins)
            self.ledger.start(parameters)
        return parameters

    def shown(self, parameters: Parameters) -> Collection[str]:
        """See `BorderTuner.shown`."""
        tuned = parameters.get("hyperparameters", {})
        return ("key", "strategy", "replicate", "blocks", "cuts", "method", *tuned)

    def remaining(self) -> int:
        """See `BorderTuner.remaining`; a tuner may run out of trials before."""
        handed_out = sum(1 for _ in self.ledger)
        return len(self._lost) + max(0, int(self.settings.num_trials) - handed_out)

    def finished(self) -> bool:
        """See `BorderTuner.finished`."""
        return not self._lost and self.no_more()

    def judge(self, key: str, epoch: int, accuracy: float) -> bool:
        """Return whether a training with this validation accuracy after an epoch is hopeless."""
        return False

    def is_hopeless(self, parameters: Parameters, metrics: Any) -> bool:
        """See `BorderTuner.is_hopeless`; only trainings are judged."""
        key = parameters["key"]
        if self.ledger[key].status == "stopped":  # and was started again by a resume
            return True
        if self.ledger[key].stage != "train" or not isinstance(metrics, dict):
            return False
        accuracy, epoch = metrics.get("default", math.nan), metrics.get("epoch")
        if epoch is None or not math.isfinite(accuracy):
            return False
        if not self.judge(key, int(epoch), float(accuracy)):
            return False
        train = {**parameters.get("train", {}), **parameters.get("hyperparameters", {})}
        epochs = int(metrics.get("epochs") or train["epochs"])
        reason = (
            f"stopped early after epoch {epoch:.0f} of {epochs}, validation accuracy {accuracy:.1%}"
        )
        self.ledger.stop(key, reason, min(1.0, epoch / epochs))
        return True

    def succeeded(self, parameters: Parameters, result: Any) -> None:
        """See `BorderTuner.succeeded`."""
        key = parameters["key"]
        if key not in self.ledger:
            _logger.warning("ignored the result of a trial that is not ours: %s", key)
            return
        if self.ledger[key].status == "stopped":  # at the moment of its end
            return
        if (known := self.ledger[key].result) is not None:  # seen again after a resume
            self.take(key, known)
            return
        self._check_same_data(key, result)
        accuracy = result.get("default") if isinstance(result, dict) else None
        if isinstance(accuracy, int | float) and math.isfinite(accuracy):
            self.ledger.succeed(key, result)
            self.take(key, result)
        else:
            self.failed(parameters, f"its result has no finite validation accuracy: {result!r}")

    def _check_same_data(self, key: str, result: Any) -> None:
        """Check that a trial has had the images of those before; versions ago none said which.

        Raises:
            ExperimentFailedError: if not: results would not be comparable.
        """
        data = result.get("data") if isinstance(result, dict) else None
        for record in self.ledger:
            before = (record.result or {}).get("data")
            if data and before and data != before:
                reason = f"its images are others than those of {record.key}: the data have changed"
                self.ledger.fail(key, reason)
                raise ExperimentFailedError(f"{key}: {reason}")

    def failed(self, parameters: Parameters, reason: str) -> None:
        """Enter a failed training; give up if there are only such.

        Raises:
            ExperimentFailedError: if it looks as if no training could succeed.
        """
        key = parameters["key"]
        if self.ledger[key].status in ("succeeded", "stopped"):  # and run again after a resume
            return
        self.ledger.fail(key, reason)
        self.miss(key)
        statuses = [record.status for record in self.ledger if record.stage == "train"]
        failures = statuses.count("failed")
        was_last = self.finished() and "running" not in statuses
        if "succeeded" not in statuses and (failures >= _FAILURES_TO_GIVE_UP or was_last):
            raise ExperimentFailedError(f"all of the first {failures} trainings failed; {reason}")

    def training(
        self,
        strategy: str,
        number: int,
        decoupling: Decoupling,
        train: TrainSettings,
        hyperparameters: dict[str, Any],
    ) -> Parameters:
        """Return the parameters of a strategy's training ``number``, from 0."""
        return {
            "key": f"{strategy}-{number:03d}",
            "stage": "train",
            "strategy": strategy,
            "task": self.settings.task.model_dump(mode="json"),
            "decoupling": decoupling.model_dump(mode="json"),
            "train": {**train.model_dump(mode="json"), "seed": train.seed + number},
            "hyperparameters": hyperparameters,
            "device": self.settings.device,
            "threads": self.settings.threads,
            "workers": self.settings.workers,
            # Once more for people, see `sedona_nni.strategies.nni_border.wire.with_summary`
            "blocks": decoupling.num_blocks,
            "cuts": _briefly(decoupling),
            "method": train.method.name,
            **hyperparameters,
        }


def _briefly(decoupling: Decoupling) -> str:
    places = (f"{cut} {name}" for cut, name in zip(decoupling.cuts, decoupling.aux, strict=True))
    return ", ".join(places) or "none"
