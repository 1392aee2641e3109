"""Starts NNI's manager, watches an experiment, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import reading
from sedona_nni.strategies.nni_border.rest import (
    ManagerApi,
    ManagerGoneError,
    final_metric,
    proxy_exceptions,
    trial_record,
)
from sedona_nni.strategies.nni_border.scripts import path_of_trials
from sedona_nni.strategies.nni_border.terminal import TunerError, finish_mark, tell
from sedona_nni.strategies.nni_border.wire import (
    trial_folder,
    unpacked,
    without_summary,
)
from sedona_nni.strategies.run_mark import (
    RUN_MARK,
    new_mark,
    processes_of,
    stopped_processes,
    wait_for_end,
)
from sedona_nni.strategies.watched import Outcome, TrialView

__all__ = [
    "Interrupted",
    "LaunchError",
    "RunningExperiment",
    "all_experiments",
    "experiment_config",
    "experiment_folder",
    "experiment_of_manager",
    "free_port",
    "is_manager",
    "is_running",
    "one_interrupt",
    "own_manager",
    "require_option",
    "running",
    "stopped_config",
]

_NNICTL = "sedona_nni.strategies.nni_border.nnictl"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PORTS_TO_TRY = 100
_STOP_S = 20.0
_TERMINATE_S = 3.0
_SILENCE_S = 300.0  # of a manager that lives; on a busy machine it is long in answering
_POLL_S = 1.0
_REOPEN_S = 10.0  # NNI looks at its limits every half second
_LOG_LINES = 15


class LaunchError(SedonaError):
    """NNI's manager did not start."""


class Interrupted(KeyboardInterrupt):
    """The user, or the system, wants us to stop.

    Attributes:
        exit_code: By convention, 128 and the number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextlib.contextmanager
def one_interrupt() -> Iterator[None]:
    """Raise `Interrupted` on the first Ctrl-C (or SIGTERM, SIGHUP) and ignore any further.

    A second one would otherwise interrupt the cleaning up and leave a manager running.
    """

    def interrupt(signum: int, _frame: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(signum)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port(wanted: int) -> int:
    """Return the first port from ``wanted`` on that nobody uses, and the next neither.

    NNI takes the next one, too, when trials run on other machines.

    Raises:
        InputError: if there is none among the next 100.
    """
    for port in range(wanted, min(wanted + _PORTS_TO_TRY, 65535)):
        if _is_free(port) and _is_free(port + 1):
            return port
    raise InputError.rule("port", "must have a free port among the next 100", wanted)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def experiment_folder(experiment_id: str) -> Path:
    """Return the folder in which NNI keeps an experiment of this user.

    Raises:
        InputError: if there is no such experiment.
    """
    return Path(_stored(experiment_id)["logDir"]) / experiment_id


def stopped_config(experiment_id: str) -> dict[str, Any]:
    """Return the configuration of an experiment that can be resumed, in NNI's complete form.

    Raises:
        InputError: if there is no such experiment, or it is running.
    """
    stored = _stored(experiment_id)
    if stored["status"] != "STOPPED":
        raise InputError(
            f"experiment {experiment_id} is running, its web UI is at port {stored['port']}; "
            f"`nnictl stop {experiment_id}` would stop it"
        )
    return experiment_config(experiment_id)


def experiment_config(experiment_id: str) -> dict[str, Any]:
    """Return the configuration of an experiment in NNI's complete form.

    Raises:
        InputError: if there is no such experiment, or what NNI keeps of it is damaged.
    """
    from nni.tools.nnictl.config_utils import Config

    folder = _stored(experiment_id)["logDir"]
    path = Path(folder, experiment_id, "db", "nni.sqlite")
    with reading(path):
        if not path.is_file():  # or there would be an empty one from now on
            raise InputError(f"{path}: there is no such file")
        config: dict[str, Any] = Config(experiment_id, folder).get_config()
        return _CONFIG.validate_python(config)


def is_running(experiment_id: str) -> bool:
    """Return whether an experiment is at work, unlike one that is done, stopped or only viewed.

    Raises:
        InputError: if there is no such experiment.
    """
    return _stored(experiment_id)["status"] not in ("DONE", "ERROR", "STOPPED", "VIEWED")


def all_experiments() -> dict[str, dict[str, Any]]:
    """Return what NNI has written down of each experiment of this user, by their ids."""
    return {name: _stored(name) for name in _experiments_of_nni().get_all_experiments()}


class _Stored(TypedDict):
    """What NNI writes down of an experiment, as far as it is read here."""

    id: str
    experimentName: str | None
    status: str
    startTime: Annotated[float, Field(ge=0, lt=2.5e14)]  # milliseconds since 1970
    logDir: str
    port: int | str  # that of an experiment that was only looked at may be N/A
    pid: NotRequired[int | None]


_ALL_STORED = TypeAdapter(dict[str, _Stored])
_CONFIG = TypeAdapter(dict[str, Any])


def _experiments_of_nni() -> Any:
    """Return NNI's own list, once it is seen to be one.

    Raises:
        InputError: if its file cannot be read, or is damaged.
    """
    from nni.tools.nnictl.config_utils import Experiments
    from nni.tools.nnictl.constants import NNI_HOME_DIR

    path = Path(NNI_HOME_DIR, ".experiment")
    with reading(path):
        found = Experiments()
        try:
            _ALL_STORED.validate_python(found.get_all_experiments())
        except ValidationError as error:
            raise InputError.from_validation(error, str(path)) from None
    return found


def _stored(experiment_id: str) -> dict[str, Any]:
    experiments = _experiments_of_nni()
    stored: dict[str, Any] | None = experiments.get_all_experiments().get(experiment_id)
    if stored is None:
        raise InputError(f"experiment {experiment_id}: NNI knows no such experiment of this user")
    if stored["status"] == "STOPPED" or is_manager(stored.get("pid"), experiment_id):
        return stored
    # That of a killed manager; NNI looks whether there is a process of this number, be it anybody's
    experiments.update_experiment(experiment_id, "status", "STOPPED")
    return {**stored, "status": "STOPPED"}


def is_manager(pid: int | None, experiment_id: str) -> bool:
    """Return whether a process is the manager of an experiment; another may have got its number."""
    with contextlib.suppress(psutil.Error):
        if pid is not None:
            return experiment_of_manager(psutil.Process(pid).cmdline()) == experiment_id
    return False


def own_manager() -> psutil.Process | None:
    """Return the manager that has started this process, None outside of NNI."""
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if experiment_of_manager(parent.cmdline()):
                return parent
    return None


class RunningExperiment:
    """An experiment whose manager was started by `running`."""

    def __init__(self, port: int, experiment_id: str, mark: str) -> None:
        self.port = port
        self.id = experiment_id
        self.api = ManagerApi(f"http://127.0.0.1:{port}", experiment_id)
        self._mark = mark
        self._told = 0
        self._views: dict[str, tuple[object, TrialView]] = {}
        self._tuner: psutil.Process | None = None
        profile = self.api.get("experiment")
        self.concurrency: int = profile["params"]["trialConcurrency"]
        self.folder = Path(profile["params"]["experimentWorkingDirectory"]).expanduser() / self.id

    @property
    def checkpoint(self) -> Path:
        """The folder in which the tuner keeps its state."""
        return self.folder / "checkpoint"

    def results_folder(self, within: Path) -> Path:
        """See `strategies.watched.Watched.results_folder`."""
        return within / self.id

    @property
    def again(self) -> str:
        """See `strategies.watched.Watched.again`."""
        return f"`sedona-nni resume {self.id}` goes on"

    @property
    def beyond_limits(self) -> str:
        """See `strategies.watched.Watched.beyond_limits`."""
        return f"`sedona-nni resume {self.id} --unlimited` goes on without its limits"

    @property
    def has_finished(self) -> bool:
        """Whether every trial was run, and not just as many as the experiment's limits allow."""
        return finish_mark(self.checkpoint).exists()

    def reached_limit(self) -> str:
        """Return which limit has ended the experiment, e.g. ``"maxTrialNumber is 5"``."""
        from nni.experiment.config.utils import parse_time

        try:
            profile = self.api.get("experiment")
        except ManagerGoneError:
            return "limits say"
        duration = profile["params"].get("maxExperimentDuration")
        if duration is not None and profile["execDuration"] > parse_time(duration):
            return f"maxExperimentDuration is {duration}"
        return f"maxTrialNumber is {profile['params'].get('maxTrialNumber')}"

    def lift_limits(self) -> None:
        """Let an experiment that its limits have ended go on without them.

        Raises:
            ManagerGoneError: if the manager does not answer.
        """
        self.api.lift_limits()
        give_up_at = time.monotonic() + _REOPEN_S
        while self.api.get("check-status")["status"] == "DONE" and time.monotonic() < give_up_at:
            time.sleep(0.2)

    def stopped(self) -> list[psutil.Process]:
        """See `strategies.watched.Watched.stopped`."""
        return stopped_processes(self._mark)

    def trials(self) -> list[TrialView]:
        """Return all trials, oldest first.

        Raises:
            ManagerGoneError: if the manager does not answer.
        """
        return [self._view(job) for job in self.api.get("trial-jobs")]

    def _view(self, job: dict[str, Any]) -> TrialView:
        """Return a trial as it was seen before, unless something has changed: most have ended."""
        seen, view = self._views.get(job["trialJobId"], (None, None))
        if view is None or seen != job:
            view = TrialView(
                id=job["trialJobId"],
                parameters=without_summary(trial_record(job).get("parameters") or {}),
                status=job["status"],
                result=final_metric(job),
                started_at=job.get("startTime", math.inf) / 1000,
                ended_at=job.get("endTime", math.inf) / 1000,
            )
            self._views[view.id] = job, view
        return view

    def latest_intermediate(self, trial_id: str) -> dict[str, Any] | None:
        """Return what a trial has reported last, None if nothing yet."""
        metrics = [
            metric
            for metric in self.api.get(f"metric-data/{trial_id}")
            if metric["type"] == "PERIODICAL"
        ]
        if not metrics:
            return None
        value = json.loads(json.loads(max(metrics, key=lambda m: m["timestamp"])["data"]))
        return value if isinstance(value, dict) else {"default": value}

    def final_result(self, trial: TrialView) -> Any:
        """Return all of a trial's final result."""
        return unpacked(trial.result, trial_folder(self.folder, trial.id))

    def last_words(self, trial_id: str) -> str:
        """Return the end of a trial's standard error."""
        text = str(self.api.get(f"trial-file/{trial_id}/stderr"))
        return "\n".join(text.strip().splitlines()[-_LOG_LINES:])

    def outcome(self) -> Outcome | None:
        """Return how the experiment ended, None while it has not.

        Raises:
            ManagerGoneError: if the manager does not answer.
        """
        status = self.api.get("check-status")
        if status["status"] == "DONE" and self.has_finished:
            return Outcome(0)
        if status["status"] in ("STOPPING", "STOPPED"):
            return Outcome(1, f"the experiment was stopped; {self.again}")
        if status["status"] == "ERROR":
            reason = f"NNI: {'; '.join(status['errors'])}"
        elif self._has_lost_tuner():  # NNI finds that out in half a minute, and not once it is done
            reason = "the tuner has ended unexpectedly"
        else:
            return Outcome(0) if status["status"] == "DONE" else None
        error = TunerError.load(self.checkpoint)
        if error is None:
            return Outcome(1, f"{reason}; {self.again}\n{self._log_end('dispatcher.log')}")
        return Outcome(2 if error.is_input_error else 1, error.message)

    def _has_lost_tuner(self) -> bool:
        """Return whether the tuner was there and is no more."""
        if self._tuner is None:
            self._tuner = next(iter(_with_option(self._mark, "--exp_params")), None)
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            ended = self._tuner.status() == psutil.STATUS_ZOMBIE
            return ended or not self._tuner.is_running()
        return True

    def polls(self) -> Iterator[tuple[list[TrialView], Outcome | None]]:
        """Yield the trials about every second, as they were last known; the last time with the
        outcome."""
        answered = time.monotonic()
        trials: list[TrialView] = []
        while True:
            outcome = None
            try:
                outcome = self._end_by_machines() or self.outcome()
                trials = self.trials()
                answered = time.monotonic()
            except ManagerGoneError:
                outcome = self._end_by_machines()
                if outcome is None and (
                    time.monotonic() - answered > _SILENCE_S or not _managers(self._mark)
                ):
                    log = self._log_end("nnimanager.log")
                    outcome = Outcome(1, f"the NNI manager has ended unexpectedly\n{log}")
            yield trials, outcome
            if outcome is not None:
                return
            time.sleep(_POLL_S)

    def _end_by_machines(self) -> Outcome | None:
        """Tell what ``machines.js`` has to say since the last time.

        Returns:
            How the experiment ended, if by that: 2 if it has never begun, as the user can mend it.
        """
        path = self.folder / "log" / "machines.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in map(json.loads, lines[self._told :]):
            self._told += 1
            if line["ending"] == "never started":
                return Outcome(2, line["message"])
            if line["ending"] == "lost":
                return Outcome(1, f"{line['message']}; {self.again}")
            tell(f"sedona-nni: {line['message']}; this goes on without it")
        return None

    def _log_end(self, name: str) -> str:
        path = self.folder / "log" / name
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join([f"the end of {path}:", *lines[-_LOG_LINES:]])


@contextlib.contextmanager
def running(arguments: list[str], *, port: int, public: bool) -> Iterator[RunningExperiment]:
    """Start an experiment with ``nnictl``, and stop it when the block is left.

    Afterwards no process of it is left: no manager, no tuner, no trial.

    Args:
        arguments: For ``nnictl``, e.g. ``["create", "--config", "experiment.yml"]``.
        port: Of the web UI; if it is taken, the next free one.
        public: Let everybody on the network see and control the experiment. NNI does not
            authenticate anyone.

    Raises:
        LaunchError: if the manager does not start.
        InputError: if no port is free.
    """
    mark = new_mark()
    try:
        yield _start(arguments, port, public, mark)
    finally:
        try:
            _stop(mark)
        except KeyboardInterrupt:  # it was ending by itself; no second one: `one_interrupt`
            _stop(mark)
            raise


def _start(arguments: list[str], port: int, public: bool, mark: str) -> RunningExperiment:
    while True:
        port = free_port(port)
        process = subprocess.run(
            [sys.executable, "-m", _NNICTL, *arguments, "--port", str(port)],
            env=_environment(public, mark),
            start_new_session=True,  # Ctrl-C in our terminal is for us
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if process.returncode == 0:
            break
        if f"Port {port} is not idle" not in process.stdout:  # else somebody was faster
            raise LaunchError("\n".join(process.stdout.strip().splitlines()[-_LOG_LINES:]))
    try:
        return RunningExperiment(port, _experiment_id(mark), mark)
    except ManagerGoneError as error:
        raise LaunchError(f"{error}\n{process.stdout.strip()}") from None


def _experiment_id(mark: str) -> str:
    """Return which experiment the manager of a run was started for.

    Raises:
        ManagerGoneError: if it has ended already.
    """
    for manager in _managers(mark):
        with contextlib.suppress(psutil.Error):
            return experiment_of_manager(manager.cmdline())
    raise ManagerGoneError("the NNI manager has ended as soon as it had started")


def experiment_of_manager(command: list[str]) -> str:
    """Return the experiment's id in a manager's command line, or nothing in any other."""
    option = "--experiment-id"
    return command[command.index(option) + 1] if option in command[:-1] else ""


def require_option(script: Path) -> str:
    """Return the option by which Node loads a script first; its path may have any characters."""
    escaped = str(script).replace("\\", "\\\\").replace('"', '\\"')
    return f'--require "{escaped}"'


def _environment(public: bool, mark: str) -> dict[str, str]:
    environment = {**os.environ, **proxy_exceptions(os.environ), RUN_MARK: mark}
    environment["PATH"] = path_of_trials()
    hooks = [
        *("patience.js", "orphan.js", "files.js", "icons.js", "machines.js"),
        *([] if public else ["loopback.js"]),
    ]
    loaded = [require_option(Path(__file__).with_name(hook)) for hook in hooks]
    environment["NODE_OPTIONS"] = " ".join([environment.get("NODE_OPTIONS", ""), *loaded]).strip()
    return environment


def _managers(mark: str) -> list[psutil.Process]:
    """Return the process of a run's manager, if it is alive."""
    found = []
    for process in processes_of(mark):
        with contextlib.suppress(psutil.Error):
            if process.name() == "node" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _with_option(mark: str, option: str) -> list[psutil.Process]:
    """Return the processes of a run in whose command line an option is."""
    found = []
    for process in processes_of(mark):
        with contextlib.suppress(psutil.Error):
            if option in process.cmdline():
                found.append(process)
    return found


def _stop(mark: str) -> None:
    """End all processes of a run: by asking the manager first, which saves its records."""
    for process in stopped_processes(mark):
        with contextlib.suppress(psutil.Error):
            process.resume()
    for process in _managers(mark):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    wait_for_end(mark, _STOP_S)
    for kill in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes_of(mark):
            with contextlib.suppress(psutil.Error):
                kill(process)
        wait_for_end(mark, _TERMINATE_S)
