"""A trial of an experiment; the command that starts it is `sedona_nni.trials.command`."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch
from pydantic import ValidationError

from sedona_nni.errors import CircumstanceError, InputError, SedonaError, lost_memory_error
from sedona_nni.plugins import load_plugins
from sedona_nni.reporting.trial import (
    AnyResult,
    AnyTrial,
    RepeatedTrial,
    SearchTrial,
    StudyTrial,
    TrainTrial,
    read_result,
    read_trial,
)
from sedona_nni.strategies import process_trial
from sedona_nni.strategies.nni_border import trial as nni_trial
from sedona_nni.strategies.nni_border.devices import claim_device

if TYPE_CHECKING:
    from sedona_nni.training.settings import TrainSettings

_LOOK_S = 2.0  # between two looks whether the host is there

# By whom this process was started: both have the same functions
_host = process_trial if process_trial.is_of_processes() else nni_trial

Claimed: TypeAlias = torch.device | Sequence[torch.device]
Report: TypeAlias = Callable[[dict[str, float]], None]

# Of a training, in the web UI; a search has no place among trainings
_SHOWN = (
    *("default", "loss", "test_accuracy", "peak_memory_mib", "ideal_peak_memory_mib"),
    *("peak_resident_mib", "images_per_s", "ideal_speedup", "time_s"),
)


def main() -> int:
    """Run the trial that this process was started for; return the exit code.

    Where the machine is to blame and not the trial, the process ends as if it had been killed: then
    its host starts the trial again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also if started with nohup
    threading.Thread(target=_end_with_host, name="host", daemon=True).start()
    try:
        trial = read_trial(_host.trial_parameters())
        load_plugins(trial.plugins, Path.cwd())  # which is trialCodeDirectory
        with _claimed(trial) as device:
            directory = Path(os.environ[process_trial.OUTPUT])
            result = run(trial, device, directory, _host.report_intermediate)
        document = result.model_dump(mode="json", exclude_none=True)
        shown = () if isinstance(trial, SearchTrial) else _SHOWN
        _host.report_final({**document, "key": trial.key}, shown)
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        if isinstance(error, CircumstanceError):
            _end_as_killed()
        return 2 if isinstance(error, InputError) else 1
    except (OSError, MemoryError):
        traceback.print_exc()
        _end_as_killed()
    except SystemError as error:
        if not lost_memory_error(error):
            raise
        traceback.print_exc()
        _end_as_killed()
    except KeyboardInterrupt:  # so a trial is stopped; there is a checkpoint
        print("sedona-nni: interrupted", file=sys.stderr)
        return 130
    return 0


def _end_with_host() -> None:
    """Interrupt the trial when whoever has started it is gone, as nobody waits for its result.

    It is started again when the experiment goes on, and must not be there twice then.
    """
    while not _host.is_gone():
        time.sleep(_LOOK_S)
    _thread.interrupt_main()


def _end_as_killed() -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def _claimed(trial: AnyTrial) -> AbstractContextManager[Claimed]:
    """Return what holds a trial's device, or the devices of its processes."""
    name, threads = trial.machine.device, trial.machine.threads
    if isinstance(trial, TrainTrial | RepeatedTrial) and trial.settings.get("parallel"):
        from sedona_nni.training.settings import TrainSettings
        from sedona_nni.trials.claims import claim_for_training

        settings = TrainSettings.model_validate(trial.settings)
        return claim_for_training(name, settings, trial.decoupling, threads=threads)
    return claim_device(name, threads=threads)


def run(trial: AnyTrial, device: Claimed, directory: Path, report: Report) -> AnyResult:
    """Run a trial; what its kind needs is imported here, as a training needs no Lightning.

    Args:
        trial: What to do.
        device: Where; of a training in parallel, for each of its processes.
        directory: Where to keep what an interrupted trial goes on with.
        report: Called with numbers on the way.

    Raises:
        SedonaError: as the training or the search does.
    """
    runs: dict[type, Callable[..., dict[str, Any]]] = {
        SearchTrial: _search,
        TrainTrial: _train,
        RepeatedTrial: _train_repeatedly,
        StudyTrial: _study,
    }
    return read_result(trial, runs[type(trial)](trial, device, directory, report))


def _train(trial: TrainTrial, device: Claimed, directory: Path, report: Report) -> dict[str, Any]:
    from sedona_nni.training.settings import TrainSettings

    return _trained(trial, TrainSettings.model_validate(trial.settings), device, directory, report)


def _train_repeatedly(
    trial: RepeatedTrial, device: Claimed, directory: Path, report: Report
) -> dict[str, Any]:
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.trials.repeated import repeated

    def train(settings: TrainSettings, directory: Path) -> dict[str, Any]:
        return _trained(trial, settings, device, directory, report)

    settings = TrainSettings.model_validate(trial.settings)
    return repeated(train, settings, trial.repetitions, directory)


def _trained(
    trial: TrainTrial | RepeatedTrial,
    settings: TrainSettings,
    device: Claimed,
    directory: Path,
    report: Report,
) -> dict[str, Any]:
    from sedona_nni.trials.train import run_training

    return run_training(
        trial.task,
        trial.decoupling,
        settings,
        device=device,
        workers=trial.machine.workers,
        report=report,
        directory=directory,
        check_memory=trial.machine.check_memory,
    )


def _search(
    trial: SearchTrial, device: torch.device, directory: Path, report: Report
) -> dict[str, Any]:
    from sedona_nni.searches import SEARCHES
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.trials.search import run_search

    kind = SEARCHES[trial.search]
    try:
        settings = kind.settings.model_validate(trial.settings)
    except ValidationError as error:  # of an experiment of before, whose settings are gone
        raise InputError.from_validation(error, kind.field) from None
    return run_search(
        trial.search,
        trial.task,
        settings,
        aux=trial.aux,
        train=None if trial.train is None else TrainSettings.model_validate(trial.train),
        device=device,
        workers=trial.machine.workers,
        report=report,
        directory=directory,
    )


def _study(
    trial: StudyTrial, device: torch.device, directory: Path, report: Report
) -> dict[str, Any]:
    from sedona_nni.trials.study import run_study_trial

    return run_study_trial(trial, device=device, report=report, directory=directory)


if __name__ == "__main__":
    sys.exit(main())
