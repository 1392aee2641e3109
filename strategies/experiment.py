"""An experiment's YAML file, checked before anything is started."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sedona_nni
from sedona_nni.data.sets import Contents, load_splits
from sedona_nni.errors import InputError
from sedona_nni.strategies.experiment_file import LOOPBACK, TAKES_A_GPU, find_experiment
from sedona_nni.strategies.nni_border.devices import check_device, check_threads
from sedona_nni.strategies.nni_border.scripts import TRIAL, path_of_trials
from sedona_nni.strategies.settings import AnySettings, read_settings
from sedona_nni.strategies.settings.costs import MEASURED
from sedona_nni.strategies.settings.explored import ExploredSettings
from sedona_nni.strategies.settings.reading import task_in
from sedona_nni.strategies.settings.tuned import TunedSettings, plan_of
from sedona_nni.task import Task

__all__ = [
    "Experiment",
    "check_no_assessor",
    "check_trials",
    "read_experiment",
]


@dataclass(frozen=True)
class Experiment:
    """What an experiment is going to do.

    Attributes:
        settings: Those under ``tuner.classArgs``.
        folder: ``trialCodeDirectory``, which relative paths are relative to.
        platform: Where trials run, e.g. ``"local"``.
    """

    settings: AnySettings
    folder: Path
    platform: str

    @property
    def task(self) -> Task:
        """The task, with the path of its data made independent of the current folder."""
        return task_in(self.settings.training.task, self.folder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Experiment:
        """Check the tuner's part of a configuration in NNI's own, complete form.

        Raises:
            InputError: if a value breaks a rule.
        """
        check_no_assessor(config)
        check_trials(config, path_of_trials())
        folder = Path(config["trialCodeDirectory"])
        if not folder.is_dir():  # NNI sees to it at a start, but not when it resumes
            raise InputError(
                f"trialCodeDirectory: {folder} is not there; an experiment goes on where it was "
                "started, so if the project was moved, move it back or put a link there"
            )
        settings = read_settings(config.get("tuner") or {}, folder)
        space = config.get("searchSpace")
        space = {} if space is None else space
        if not isinstance(space, Mapping):
            rule = "must be a mapping of settings to what they are drawn from"
            raise InputError.rule("searchSpace", rule, space)
        if isinstance(settings, TunedSettings):
            if importlib.util.find_spec("optuna") is not None:  # without it nothing is tuned
                from sedona_nni.strategies.hyperparameters import read_search_spaces

                read_search_spaces(space, settings, plan_of(settings, folder))
        elif space:
            raise InputError("searchSpace: must be {} for a tuner that tunes nothing")
        platform = config["trainingService"]["platform"]
        timed = (
            isinstance(settings, TunedSettings | ExploredSettings)
            and settings.bound.compute == MEASURED
        )
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
        check_device(self.settings.machine.device)
        check_threads(self.settings.machine.threads)
        return self.contents()

    def contents(self) -> Contents | None:
        """Return what of the data set is used for trainings, and what is not.

        Raises:
            InputError: if it is not there.
        """
        fraction = self.settings.training.train.validation_fraction
        return load_splits(self.task, fraction).contents


def check_no_assessor(config: Mapping[str, Any]) -> None:
    """Check that NNI's part of a configuration has no assessor.

    One would judge a search by the trainings, whose numbers mean something else, and stop it.

    Raises:
        InputError: if it has one.
    """
    assessor = config.get("assessor")
    if assessor:
        rule = "must not be given; to stop hopeless trainings, tuner.classArgs has `pruner: median`"
        name = assessor.get("name") or assessor.get("className")
        raise InputError.rule("assessor", rule, name)


def check_trials(config: Mapping[str, Any], path: str) -> None:
    """Check what a configuration in NNI's complete form says about trials, but for the tuner.

    Args:
        config: That.
        path: The PATH that trials on this machine will have.

    Raises:
        InputError: if NNI is to hand out GPUs, or there is no such command as ours, or it would
            run other code, or other machines are used in a way that is none of ours.
    """
    service = config.get("trainingService", {})
    if not isinstance(service, Mapping):
        raise InputError("trainingService: must be one, not a list")
    number = config.get("trialGpuNumber") or service.get("trialGpuNumber")
    if number:
        raise InputError.rule("trialGpuNumber", TAKES_A_GPU, number)
    if service.get("platform") == "local" and service.get("gpuIndices") is not None:
        rule = f"{TAKES_A_GPU}; CUDA_VISIBLE_DEVICES says which there are"
        raise InputError.rule("trainingService.gpuIndices", rule, service["gpuIndices"])
    if service.get("platform") == "remote":
        _check_machines(service)
    command = str(config.get("trialCommand"))
    started = _MODULE.search(command)
    if started is not None:  # Python looks first in the folder that it is started in
        _check_module(command, started[1], Path(config["trialCodeDirectory"]))
    on_this_machine = service.get("platform") == "local"
    if (
        on_this_machine
        and command.split()[:1] == [TRIAL]
        and shutil.which(TRIAL, path=path) is None
    ):
        raise InputError(
            f"trialCommand: {TRIAL} is not on the PATH of trials, as the environment that this "
            "project is installed in is not activated; `sedona-nni run` does without"
        )


def _check_machines(service: Mapping[str, Any]) -> None:
    """Check that what ``machines.js`` does without is left out.

    Raises:
        InputError: if not.
    """
    if service.get("reuseMode"):
        raise InputError.rule("trainingService.reuseMode", "must be left out", True)
    if service.get("nniManagerIp", LOOPBACK) != LOOPBACK:
        rule = "must be left out, as machines reach the manager through its SSH connection to them"
        raise InputError.rule("nniManagerIp", rule, service["nniManagerIp"])
    for number, machine in enumerate(service.get("machineList", ())):
        field = f"trainingService.machineList.{number}"
        for secret in ("password", "sshPassphrase"):
            if machine.get(secret) is not None:
                raise InputError(
                    f"{field}.{secret}: must be left out, as NNI shows it to everyone who can see "
                    "processes or the web UI; sshKeyFile names a key without a passphrase"
                )
        if machine.get("gpuIndices") is not None:
            raise InputError.rule(f"{field}.gpuIndices", TAKES_A_GPU, machine["gpuIndices"])


_MODULE = re.compile(r"python[\d.]*\s+-m\s+(trials|sedona_nni)\b")


def _check_module(command: str, name: str, folder: Path) -> None:
    """Check that a command that starts a module in a folder finds ours there."""
    importlib.machinery.PathFinder.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name, [str(folder), *sys.path])
    if spec is None and name == "sedona_nni":  # then a hook of an editable installation finds it
        return
    if spec is None:
        found = "finds them only in a checkout of this project"
    else:
        places = spec.submodule_search_locations
        path = Path(str(spec.origin) if places is None else next(iter(places))).resolve()
        if _is_ours(path, name):
            return
        found = f"would run {str(path)!r}"
    raise InputError(
        f"trialCommand: must start this project's trials, but {command!r} {found}; "
        f"{TRIAL} starts them in any folder"
    )


def _is_ours(found: Path, name: str) -> bool:
    """Return whether it is the installed package, or another copy of it, as in a clone."""
    package = Path(sedona_nni.__path__[0])
    ours = (package if name == "sedona_nni" else package / name).resolve()
    beginning = found / "__init__.py"
    return found == ours or (
        beginning.is_file() and beginning.read_bytes() == (ours / "__init__.py").read_bytes()
    )


def read_experiment(given: str | Path) -> Experiment:
    """Read an experiment's file as NNI does, and check it.

    Args:
        given: See `sedona_nni.strategies.experiment_file.find_experiment`.

    Raises:
        InputError: if it is missing, NNI would refuse it, or our tuner would.
    """
    return Experiment.from_config(find_experiment(given).config())
