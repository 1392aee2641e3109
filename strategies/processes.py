"""An experiment without NNI's manager: trials are processes of whoever runs it.

The same sources of trials as under NNI (`strategies.sources`), the same ledger and study, and no
server. Everything is in one folder:

    experiment.json        the experiment, with absolute paths
    checkpoint/            the ledger, Optuna's study, and what else a source keeps
    environments/local-env/trials/<key>/
                           a folder for each trial: see `strategies.process_trial`; with stdout,
                           stderr and what the trial goes on with when it was interrupted
    results/               what came of it

Run again in the same folder, it goes on: trials that had not ended are started again and go on
from their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from sedona_nni.errors import InputError, UnwritableError
from sedona_nni.files import check_no_links, read_json, reading, write_json
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.checkpoint import LEDGER_FILE, ledger_in
from sedona_nni.strategies.experiment_file import differences
from sedona_nni.strategies.nni_border.scripts import path_of_trials
from sedona_nni.strategies.nni_border.terminal import TunerError, finish_mark
from sedona_nni.strategies.nni_border.wire import result_file, trial_folder
from sedona_nni.strategies.process_trial import (
    HOST,
    OUTPUT,
    PARAMETERS_FILE,
    REPORTS_FILE,
    host_mark,
)
from sedona_nni.strategies.run_mark import (
    RUN_MARK,
    new_mark,
    processes_of,
    stopped_processes,
    wait_for_end,
)
from sedona_nni.strategies.sources import source_type
from sedona_nni.strategies.sources.source import Parameters
from sedona_nni.strategies.watched import Outcome, TrialView

__all__ = ["ProcessExperiment", "in_folder", "restore"]

_EXPERIMENT_FILE = "experiment.json"
_LOCK_FILE = ".lock"
_SECONDS_FILE = "seconds.json"
_MAY_CHANGE = {
    *("maxTrialNumber", "maxExperimentDuration", "trialConcurrency"),
    *("experimentName", "debug", "logLevel", "logCollection", "experimentWorkingDirectory"),
}
_NOT_KNOWN_HERE = ("maxTrialDuration", "assessor", "sharedStorage", "tunerGpuIndices")
_STATUSES = {  # of a ledger's record, as NNI would call it
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "stopped": "EARLY_STOPPED",
    "running": "WAITING",
}
_POLL_S = 0.5
_STOP_S = 20.0  # a trial may have to end its epoch's checkpoint
_KILL_S = 3.0
_LOG_LINES = 15
_BY_SIGNAL = 128


@dataclass
class _Trial:
    """A trial that was started in this session.

    Attributes:
        parameters: What its source said.
        folder: Its own.
        process: The shell that it is in.
        started_at: Seconds since the epoch.
        read: Bytes of its reports that are known.
        latest: What it has reported last.
        status: As `TrialView` has it.
        result: Its final result, if it has ended well.
        ended_at: Seconds since the epoch, infinite while it runs.
    """

    parameters: Parameters
    folder: Path
    process: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.time)
    read: int = 0
    latest: dict[str, Any] | None = None
    status: str = "RUNNING"
    result: Any = None
    ended_at: float = math.inf

    @property
    def key(self) -> str:
        return str(self.parameters["key"])


class ProcessExperiment:
    """An experiment whose trials are our processes: the host of its source of trials.

    Args:
        folder: Its folder.
        config: The experiment in NNI's complete form.

    Attributes:
        folder: Its folder.
        lock: See `strategies.sources.source.Host`.
    """

    is_supervised = True
    again = "the same command goes on"
    beyond_limits = "with a higher limit in its file, the same command goes on"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._config = dict(config)
        self._mark = new_mark()
        self._host = host_mark()
        self._trials: dict[str, _Trial] = {}
        self._ended_views: dict[str, TrialView] = {}
        self._outcome: Outcome | None = None
        self._seconds_before = _seconds_in(self.checkpoint)
        self._began = time.monotonic()
        self._source = source_type(config["tuner"]["className"])(config["tuner"], self)

    # What a source of trials asks

    @property
    def checkpoint(self) -> Path:
        """See `strategies.sources.source.Host`."""
        return self.folder / "checkpoint"

    @property
    def free_slots(self) -> int:
        """See `strategies.sources.source.Host`."""
        if self._outcome is not None or self.reached_limit():
            return 0
        return max(0, self.concurrency - len(self._running()))

    def experiment_config(self) -> dict[str, Any]:
        """See `strategies.sources.source.Host`."""
        return self._config

    def supply(self) -> None:
        """See `strategies.sources.source.Host`."""
        with self.lock:
            while self.free_slots:
                parameters = self._source.next_parameters()
                if parameters is None:
                    break
                self._start(parameters)

    def give_up(self, error: BaseException) -> None:
        """See `strategies.sources.source.Host`."""
        with self.lock:
            if self._outcome is None:
                described = TunerError.of(error, self.checkpoint)
                with contextlib.suppress(UnwritableError):  # which may be the error
                    described.save(self.checkpoint)
                self._outcome = Outcome(2 if described.is_input_error else 1, described.message)

    # What whoever watches asks, see `strategies.watched.Watched`

    @property
    def id(self) -> str:
        """The path of its folder."""
        return str(self.folder)

    def results_folder(self, within: Path) -> Path:
        """Return a folder in its own."""
        return self.folder / "results"

    @property
    def concurrency(self) -> int:
        """How many trials run at the same time."""
        return int(self._config["trialConcurrency"])

    @property
    def has_finished(self) -> bool:
        """Whether every trial was run."""
        return finish_mark(self.checkpoint).exists()

    def stopped(self) -> list[psutil.Process]:
        """See `strategies.watched.Watched.stopped`."""
        return stopped_processes(self._mark)

    def reached_limit(self) -> str:
        """Return which limit lets no further trial start, nothing if none does."""
        most = self._config.get("maxTrialNumber")
        if most is not None and len(self._ledger()) >= most:
            return f"maxTrialNumber is {most}"
        duration = self._config.get("maxExperimentDuration")
        if duration is not None and self._seconds() > _in_seconds(duration):
            return f"maxExperimentDuration is {duration}"
        return ""

    def outcome(self) -> Outcome | None:
        """Return how it ended, None while it has not."""
        return self._outcome

    def latest_intermediate(self, trial_id: str) -> dict[str, Any] | None:
        """Return what a trial has reported last."""
        trial = self._trials.get(trial_id)
        return None if trial is None else trial.latest

    def final_result(self, trial: TrialView) -> Any:
        """Return all of a trial's final result."""
        return trial.result

    def last_words(self, trial_id: str) -> str:
        """Return the end of a trial's standard error."""
        path = trial_folder(self.folder, trial_id) / "stderr"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.strip().splitlines()[-_LOG_LINES:])

    def trials(self) -> list[TrialView]:
        """Return all trials, also those of earlier sessions, oldest first."""
        return [
            self._ended_views.get(record.key) or self._view(record.key) for record in self._ledger()
        ]

    def polls(self) -> Iterator[tuple[list[TrialView], Outcome | None]]:
        """Start trials and take what comes of them; yield all, the last time with the outcome."""
        while True:
            with self.lock:
                self._guarded(self._look)
                trials, outcome = self.trials(), self._outcome
            yield trials, outcome
            if outcome is not None:
                return
            time.sleep(_POLL_S)

    def begin(self) -> None:
        """Let the source take up its state, and what is known of earlier sessions.

        Raises:
            InputError: if that is damaged, or its settings make no sense.
        """
        TunerError.clear(self.checkpoint)
        self._end_former()
        with self.lock:
            self._configure()

    def end(self) -> None:
        """Leave no process behind, and note how long it took."""
        with self.lock:
            for process in self.stopped():
                with contextlib.suppress(psutil.Error):
                    process.resume()
            for trial in self._running():
                _signal_group(trial.process, signal.SIGINT)
            wait_for_end(self._mark, _STOP_S)
            for process in processes_of(self._mark):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            wait_for_end(self._mark, _KILL_S)
            for trial in self._running():
                # So that the system can forget it; in its last moment it shows its mark no more
                with contextlib.suppress(subprocess.TimeoutExpired):
                    trial.process.wait(_KILL_S)
            with contextlib.suppress(UnwritableError):  # it is not worth another's place
                write_json(self.checkpoint / _SECONDS_FILE, self._seconds())

    # Details

    def _end_former(self) -> None:
        """End trials of a session that was killed: each would be there twice."""
        trials = trial_folder(self.folder, "")
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.environ().get(OUTPUT, "")).parent == trials:
                    process.kill()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.give_up(error)

    def _configure(self) -> None:
        self._source.configure(self._config.get("searchSpace") or {})
        self._source.resumed([])  # none of those that had not ended runs
        for record in self._ledger():
            if record.result is not None:
                self._source.succeeded({"key": record.key}, record.result.model_dump(mode="json"))

    def _ledger(self) -> Ledger:
        ledger: Ledger | None = getattr(self._source, "ledger", None)
        return Ledger(self.checkpoint / LEDGER_FILE) if ledger is None else ledger

    def _running(self) -> list[_Trial]:
        return [trial for trial in self._trials.values() if trial.status == "RUNNING"]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _look(self) -> None:
        for trial in self._running():
            code = trial.process.poll()  # before its reports are read, so that none is missed
            self._read_reports(trial)
            if code is not None and trial.status == "RUNNING":
                self._ended(trial, code)
                if trial.status == "USER_CANCELED":  # which is to be seen before it runs again
                    return
        self.supply()
        if self._outcome is None and not self._running():
            if self._source.finished():
                finish_mark(self.checkpoint).touch()
                self._outcome = Outcome(0)
            elif self.reached_limit():
                self._outcome = Outcome(0)

    def _start(self, parameters: Parameters) -> None:
        folder = trial_folder(self.folder, parameters["key"])
        folder.mkdir(parents=True, exist_ok=True)
        result_file(folder).unlink(missing_ok=True)
        write_json(folder / PARAMETERS_FILE, parameters)
        environment = {
            **os.environ,
            "PATH": path_of_trials(),
            RUN_MARK: self._mark,
            HOST: self._host,
            OUTPUT: str(folder),
        }
        with (folder / "stdout").open("ab") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                self._config["trialCommand"],
                shell=True,
                cwd=self._config["trialCodeDirectory"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C in our terminal is for us
            )
        trial = _Trial(parameters, folder, process)
        self._trials[trial.key] = trial
        self._ended_views.pop(trial.key, None)
        self._read_reports(trial)  # those of an earlier session

    def _read_reports(self, trial: _Trial) -> None:
        path = trial.folder / REPORTS_FILE
        if not path.exists():
            return
        with path.open("rb") as reports:
            reports.seek(trial.read)
            for line in reports:
                if not line.endswith(b"\n"):  # it is being written
                    break
                trial.read += len(line)
                trial.latest = json.loads(line)
                if self._source.is_hopeless(trial.parameters, trial.latest):
                    trial.status, trial.ended_at = "EARLY_STOPPED", time.time()
                    _signal_group(trial.process, signal.SIGKILL)
                    trial.process.wait()
                    return

    def _ended(self, trial: _Trial, code: int) -> None:
        trial.ended_at = time.time()
        path = result_file(trial.folder)
        if code == 0 and path.exists():
            trial.status, trial.result = "SUCCEEDED", read_json(path)
            self._source.succeeded(trial.parameters, trial.result)
            return
        number = -code if code < 0 else code - _BY_SIGNAL  # as the shell says it
        if number > 0 and number != signal.SIGINT:  # which is by somebody's hand
            trial.status = "USER_CANCELED"  # as NNI calls it
            reason = f"the trial was killed:\n{self.last_words(trial.key)}"
            self._source.killed(trial.parameters, reason)
            return
        trial.status = "FAILED"
        reason = f"the trial failed:\n{self.last_words(trial.key)}"
        if code == 0:
            reason = "the trial ended without a final result"
        self._source.failed(trial.parameters, reason)

    def _view(self, key: str) -> TrialView:
        trial, record = self._trials.get(key), self._ledger()[key]
        if trial is not None:
            view = TrialView(
                key,
                trial.parameters,
                trial.status,
                trial.result,
                trial.started_at,
                trial.ended_at,
            )
        else:
            view = TrialView(
                key,
                record.parameters.model_dump(mode="json", exclude_none=True),
                _STATUSES[record.status],
                None if record.result is None else record.result.model_dump(mode="json"),
            )
        if view.status not in ("RUNNING", "WAITING"):  # nothing changes any more
            self._ended_views[key] = view
        return view


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _seconds_in(checkpoint: Path) -> float:
    path = checkpoint / _SECONDS_FILE
    if not path.exists():
        return 0.0
    with reading(path, "remove it to count from now on"):
        return float(read_json(path))


def _in_seconds(duration: Any) -> float:
    from nni.experiment.config.utils import parse_time

    return float(parse_time(duration))


@contextlib.contextmanager
def in_folder(folder: Path, config: Mapping[str, Any]) -> Iterator[ProcessExperiment]:
    """Run an experiment in a folder, or go on with it; afterwards no process of it is left.

    Args:
        folder: It need not exist yet.
        config: The experiment in NNI's complete form.

    Raises:
        InputError: if another run is at work there, the folder holds another experiment or
            something else, or the experiment needs NNI's manager.
    """
    _check_config(config)
    path = folder / _EXPERIMENT_FILE
    others = [each.name for each in folder.iterdir()] if folder.exists() else []
    if not path.exists() and not _is_without_any(folder, others):
        rule = "must be a new folder, or one in which this experiment was run before"
        raise InputError.rule("--directory", rule, str(folder))
    for name in others:
        check_no_links(folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / _LOCK_FILE).acquire(timeout=0)
    except Timeout:
        raise InputError(f"--directory: another run is at work in {folder}") from None
    with lock:
        if path.exists():
            _check_same(path, config)
        (folder / "checkpoint").mkdir(exist_ok=True)
        experiment = ProcessExperiment(folder.resolve(), config)
        experiment.begin()
        write_json(path, config)
        try:
            yield experiment
        finally:
            experiment.end()


def restore(folder: Path, config: Mapping[str, Any], ledger: Path) -> None:
    """Make the folder of an experiment of which the ledger is left, for `in_folder` to go on with.

    What has ended is known by it, checkpoints of what had not are lost.

    Args:
        folder: A new one.
        config: The experiment in NNI's complete form.
        ledger: Of a former run of it.

    Raises:
        InputError: if the folder exists, the file is no ledger, or hyperparameters are tuned: what
            was drawn is in their study alone.
    """
    _check_config(config)
    if config.get("searchSpace"):
        rule = "must be empty to go on by a ledger alone"
        raise InputError.rule("searchSpace", rule, [*config["searchSpace"]])
    if folder.exists():
        raise InputError.rule("folder", "must be a new one", str(folder))
    list(Ledger(ledger))
    (folder / "checkpoint").mkdir(parents=True)
    shutil.copyfile(ledger, folder / "checkpoint" / LEDGER_FILE)
    write_json(folder / _EXPERIMENT_FILE, config)


def _is_without_any(folder: Path, names: Iterable[str]) -> bool:
    """Return whether a folder is empty but for what a run has left that ended before it began."""
    return {*names} <= {_LOCK_FILE, "checkpoint"} and ledger_in(folder / "checkpoint") is None


def _check_config(config: Mapping[str, Any]) -> None:
    platform = config["trainingService"]["platform"]
    if platform != "local":
        rule = "must be local without NNI's manager"
        raise InputError.rule("trainingService.platform", rule, platform)
    for name in _NOT_KNOWN_HERE:
        if config.get(name):
            raise InputError.rule(name, "must be left out without NNI's manager", config[name])


def _check_same(path: Path, config: Mapping[str, Any]) -> None:
    with reading(path, "choose another folder"):
        before = read_json(path)
        changed = [
            name
            for name in differences(before, config)
            if name.partition(".")[0] not in _MAY_CHANGE
        ]
    if changed:
        raise InputError(
            f"--directory: {path.parent} holds another experiment, which differs in "
            f"{', '.join(changed[:5])}; choose another folder"
        )
