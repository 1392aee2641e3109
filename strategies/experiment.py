"""An experiment's YAML file, checked before anything is started."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedona_nni.data import Contents, load_splits
from sedona_nni.errors import InputError
from sedona_nni.task import Task
from strategies.hyperparameters import read_search_spaces
from strategies.ledger_tuner import check_no_assessor
from strategies.nni_border.devices import check_device
from strategies.settings import (
    BalancedSettings,
    BridgeSettings,
    CommonSettings,
    ExperimentSettings,
    GridSettings,
    ProbeExperimentSettings,
    SearchingSettings,
    TuningSettings,
    read_settings,
)
from strategies.study_settings import StudySettings

__all__ = ["Experiment", "read_experiment"]

_TUNERS: dict[str, type[CommonSettings]] = {
    "strategies.tuner.SedonaTuner": ExperimentSettings,
    "strategies.tuner.ProbeTuner": ProbeExperimentSettings,
    "strategies.tuner.OptunaTuner": TuningSettings,
    "strategies.bridge.BridgeTuner": BridgeSettings,
    "strategies.grid.GridTuner": GridSettings,
    "strategies.study.StudyTuner": StudySettings,
}


@dataclass(frozen=True)
class Experiment:
    """What an experiment is going to do.

    Attributes:
        settings: Those under ``tuner.classArgs``.
        folder: ``trialCodeDirectory``, which relative paths are relative to.
        platform: Where trials run, e.g. ``"local"``.
    """

    settings: CommonSettings
    folder: Path
    platform: str

    @property
    def task(self) -> Task:
        """The task, with the path of its data made independent of the current folder."""
        return self.settings.task_in(self.folder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Experiment:
        """Check the tuner's part of a configuration in NNI's own, complete form.

        Raises:
            InputError: if a value breaks a rule.
        """
        check_no_assessor(config)
        tuner = config.get("tuner") or {}
        model = _TUNERS.get(str(tuner.get("className")))
        if model is None:
            known = ", ".join(_TUNERS)
            raise InputError.rule("tuner.className", f"must be one of {known}", tuner)
        folder = Path(config["trialCodeDirectory"])
        if not folder.is_dir():  # NNI sees to it at a start, but not when it resumes
            raise InputError(
                f"trialCodeDirectory: {folder} is not there; an experiment goes on where it was "
                "started, so if the project was moved, move it back or put a link there"
            )
        settings = read_settings(model, tuner.get("classArgs") or {}, folder)
        space = config.get("searchSpace") or {}
        if isinstance(settings, SearchingSettings | TuningSettings):
            read_search_spaces(space, settings, folder)
        elif space:
            raise InputError("searchSpace: must be {} for a tuner that tunes nothing")
        platform = config["trainingService"]["platform"]
        timed = isinstance(settings, BalancedSettings) and settings.compute == "time"
        if timed and platform != "local":
            raise InputError(
                f"compute: time is measured where the tuner runs, but trials run on {platform}; "
                "name a file of times that were measured there"
            )
        return cls(settings, folder, platform)

    def check_machine(self) -> Contents | None:
        """Check that this machine has the device and the data set.

        Returns:
            What of the data set is used, and what is not; None where trials run elsewhere.

        Raises:
            InputError: if it has not.
        """
        if self.platform != "local":
            return None
        check_device(self.settings.device)
        return self.contents()

    def contents(self) -> Contents | None:
        """Return what of the data set is used for trainings, and what is not.

        Raises:
            InputError: if it is not there.
        """
        return load_splits(self.task, self.settings.train.validation_fraction).contents


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's file as NNI does, and check it.

    Raises:
        InputError: if it is missing, NNI would refuse it, or our tuner would.
    """
    from nni.experiment.config import ExperimentConfig, utils

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        config = ExperimentConfig.load(path).json()
    except Exception as error:  # whatever NNI raises, from bare assertions to yaml's errors
        utils.unset_base_path()  # which NNI omits then
        source = traceback.extract_tb(error.__traceback__)[-1].line
        reason = " ".join(str(error).split()) or source
        raise InputError(f"{path}: NNI does not accept it ({reason})") from None
    return Experiment.from_config(config)
