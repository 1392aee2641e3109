"""A trial under NNI: ``trialCommand: python -m trials``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.plugins import load_plugins
from sedona_nni.strategies.nni_border.devices import claim_device
from sedona_nni.strategies.nni_border.trial import (
    report_final,
    report_intermediate,
    trial_parameters,
)
from sedona_nni.task import Task

# Of a training, in the web UI; a search has no place among trainings
_SHOWN = ("default", "loss", "test_accuracy", "peak_memory_mib", "time_s")


def main() -> int:
    """Run the trial that NNI has started this process for; return the exit code."""
    try:
        parameters = trial_parameters()
        load_plugins(parameters.get("plugins", ()), Path.cwd())  # which is trialCodeDirectory
        with claim_device(parameters["device"], threads=parameters["threads"]) as device:
            result = _run(parameters, device, Path(os.environ["NNI_OUTPUT_DIR"]))
        repeated = ("key", "stage", "strategy", "hyperparameters")
        echo = {name: parameters[name] for name in repeated if name in parameters}
        shown = () if parameters["stage"] == "search" else _SHOWN
        report_final({**result, **echo}, shown)
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:  # NNI stops a trial like this; there is a checkpoint
        print("sedona-nni: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(parameters: dict[str, Any], device: torch.device, directory: Path) -> dict[str, Any]:
    """Run the stage; what it needs is imported here, as a training needs no Lightning."""
    task = Task.model_validate(parameters["task"])
    if parameters["stage"] == "search":
        return _search(task, parameters, device, directory)
    if "spaces" in parameters:
        return _study(parameters, device, directory)
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.trials.repeated import repeated
    from sedona_nni.trials.train import run_training

    def train(settings: TrainSettings, directory: Path) -> dict[str, Any]:
        return run_training(
            task,
            Decoupling.model_validate(parameters["decoupling"]),
            settings,
            device=device,
            workers=parameters.get("workers"),
            report=report_intermediate,
            directory=directory,
        )

    settings = TrainSettings.model_validate(
        {**parameters["train"], **parameters["hyperparameters"]}
    )
    repetitions = parameters.get("repetitions")
    if repetitions is None:
        return train(settings, directory)
    return repeated(train, settings, repetitions, directory)


def _search(
    task: Task, parameters: dict[str, Any], device: torch.device, directory: Path
) -> dict[str, Any]:
    """Run the search that the parameters have the settings of."""
    from sedona_nni.searches import SEARCHES
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.trials.search import run_search

    kind = next(SEARCHES[name] for name in SEARCHES if SEARCHES[name].field in parameters)
    train = parameters.get("train")
    return run_search(
        kind.name,
        task,
        kind.settings.model_validate(parameters[kind.field]),
        aux=parameters["aux"],
        train=None if train is None else TrainSettings.model_validate(train),
        device=device,
        workers=parameters.get("workers"),
        report=report_intermediate,
        directory=directory,
    )


def _study(parameters: dict[str, Any], device: torch.device, directory: Path) -> dict[str, Any]:
    """Run a strategy of a study."""
    from sedona_nni.strategies.study_settings import StudySettings
    from sedona_nni.trials.study import run_study_trial

    fields = StudySettings.model_fields
    given = {name: parameters[name] for name in fields if name in parameters}
    return run_study_trial(
        StudySettings.model_validate(given),
        parameters["strategy"],
        parameters["replicate"],
        device=device,
        report=report_intermediate,
        directory=directory,
    )


if __name__ == "__main__":
    sys.exit(main())
