"""An experiment's YAML file, checked before anything is started."""

from __future__ import annotations

import importlib.machinery
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedona_nni.data.sets import Contents, load_splits
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically
from sedona_nni.strategies.hyperparameters import read_search_spaces
from sedona_nni.strategies.nni_border.devices import check_device
from sedona_nni.strategies.settings import (
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
from sedona_nni.strategies.study_settings import StudySettings
from sedona_nni.task import Task

__all__ = [
    "Experiment",
    "changed_since_start",
    "check_no_assessor",
    "check_trials",
    "read_experiment",
    "remember_file",
]

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
        check_trials(config)
        tuner = config.get("tuner") or {}
        # Without the first name in experiments of a checkout, whose folders it is
        model = _TUNERS.get(str(tuner.get("className")).removeprefix("sedona_nni."))
        if model is None:
            known = ", ".join(f"sedona_nni.{name}" for name in _TUNERS)
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


_TAKES_A_GPU = "must be left out, as each trial takes a GPU of its own by itself"


def check_trials(config: Mapping[str, Any]) -> None:
    """Check what a configuration in NNI's complete form says about trials, but for the tuner.

    Raises:
        InputError: if NNI is to hand out GPUs, or the trials would run other code than ours.
    """
    service = config.get("trainingService", {})
    number = config.get("trialGpuNumber") or service.get("trialGpuNumber")
    if number:
        raise InputError.rule("trialGpuNumber", _TAKES_A_GPU, number)
    if service.get("platform") == "local" and service.get("gpuIndices") is not None:
        rule = f"{_TAKES_A_GPU}; CUDA_VISIBLE_DEVICES says which there are"
        raise InputError.rule("trainingService.gpuIndices", rule, service["gpuIndices"])
    folder = Path(config["trialCodeDirectory"])
    for name in ("sedona_nni", "search_spaces", "strategies", "trials"):
        found = _would_import(name, folder)
        if found is not None and not _is_ours(found, name):
            raise InputError(
                f"trialCodeDirectory: must not have {found.name} of its own, which trials would "
                f"import in place of the installed one, but got {str(found)!r}"
            )


def _would_import(name: str, folder: Path) -> Path | None:
    """Return the package or module of a name that a process in a folder finds, None if none."""
    importlib.machinery.PathFinder.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name, [str(folder), *sys.path])
    if spec is None:  # then a hook of an installation finds ours
        return None
    if spec.submodule_search_locations is not None:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(str(spec.origin)).resolve()


def _is_ours(found: Path, name: str) -> bool:
    """Return whether it is the installed package, or another copy of it, as in a clone."""
    ours = Path(__file__).resolve().parents[1] / name
    beginning = found / "__init__.py"
    return found == ours or (
        beginning.is_file() and beginning.read_bytes() == (ours / "__init__.py").read_bytes()
    )


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's file as NNI does, and check it.

    Raises:
        InputError: if it is missing, NNI would refuse it, or our tuner would.
    """
    return Experiment.from_config(_read_config(path))


def _read_config(path: Path) -> dict[str, Any]:
    from nni.experiment.config import ExperimentConfig, utils

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        config: dict[str, Any] = ExperimentConfig.load(path).json()
    except Exception as error:  # whatever NNI raises, from bare assertions to yaml's errors
        utils.unset_base_path()  # which NNI omits then
        source = traceback.extract_tb(error.__traceback__)[-1].line
        reason = " ".join(str(error).split()) or str(source)
        if "use_active_gpu" in reason:  # which would be no help: NNI is not to know of GPUs
            raise InputError(f"{path}: trialGpuNumber: {_TAKES_A_GPU}") from None
        raise InputError(f"{path}: NNI does not accept it ({reason})") from None
    return config


def _file_mark(checkpoint: Path) -> Path:
    return checkpoint / "experiment-file"


def remember_file(path: Path, checkpoint: Path) -> None:
    """Leave the path of an experiment's file in its checkpoint folder."""
    absolute = str(path.resolve())
    write_atomically(
        _file_mark(checkpoint), lambda mark: mark.write_text(absolute, encoding="utf-8")
    )


def changed_since_start(
    config: Mapping[str, Any], checkpoint: Path
) -> tuple[Path, list[str]] | None:
    """Compare an experiment, which keeps its configuration, with the file that it came from.

    Args:
        config: The experiment's, in NNI's complete form.
        checkpoint: Its checkpoint folder.

    Returns:
        The file, and the fields in which it differs; None where there is no such file (any more).
    """
    mark = _file_mark(checkpoint)
    if not mark.exists():
        return None
    path = Path(mark.read_text(encoding="utf-8"))
    if not path.is_file():
        return None
    try:
        now = _read_config(path)
    except InputError:
        return path, ["which NNI does not accept any more"]
    return path, list(_differences(config, now))


def _differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for field in sorted({*one, *other}):
            inner = f"{name}.{field}" if name else field
            yield from _differences(one.get(field), other.get(field), inner)
    elif one != other:
        yield name
