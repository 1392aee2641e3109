"""Our tuners: what NNI expects of one, made reliable."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import nni
import psutil
from nni.assessor import Assessor
from nni.runtime import msg_dispatcher
from nni.runtime.tuner_command_channel import CommandType
from nni.tuner import Tuner

from sedona_nni.errors import InputError, UnwritableError
from sedona_nni.files import read_json, write_json
from sedona_nni.strategies.checkpoint import ANNOUNCED_FILE
from sedona_nni.strategies.nni_border.launcher import own_manager
from sedona_nni.strategies.nni_border.rest import (
    ManagerApi,
    final_metric,
    trial_record,
    without_proxy,
)
from sedona_nni.strategies.nni_border.terminal import (
    ERROR_PARAMETER,
    TunerError,
    checkpoint_folder,
    finish_mark,
    tell,
)
from sedona_nni.strategies.nni_border.wire import (
    trial_folder,
    unpacked,
    with_summary,
    without_summary,
)
from sedona_nni.strategies.run_mark import RUN_MARK
from sedona_nni.strategies.sources import source_type
from sedona_nni.strategies.sources.source import Parameters, TrialSource

__all__ = ["BorderTuner"]

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger(__name__)

# How long after the successful end of a trial its final result may still be on its way: NNI
# delivers the two by different threads, in any order.
_FINAL_RESULT_GRACE_S = 10.0
_STDERR_LINES = 15
_KILLED = "USER_CANCELED"  # so NNI calls every trial that a signal has ended
_SUCCEEDED = "SUCCEEDED"
_ENDED = (_SUCCEEDED, _KILLED, "FAILED", "SYS_CANCELED", "EARLY_STOPPED")
_MESSENGER_S = 60.0


def _show_gpus(manager: psutil.Process) -> None:
    """See the GPUs that trials will see; NNI hides all from a tuner."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        with contextlib.suppress(psutil.Error):
            visible = manager.environ().get("CUDA_VISIBLE_DEVICES")
            del os.environ["CUDA_VISIBLE_DEVICES"]
            if visible is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = visible


def _warn_of_network(manager: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        for connection in manager.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address.ip in ("::", "0.0.0.0"):
                tell(
                    f"sedona-nni: NNI's web server at port {address.port} is open to the whole "
                    "network and asks nobody who he is; `sedona-nni run` opens it to this machine "
                    "only"
                )


def _refuse_machines(config: Mapping[str, Any]) -> None:
    """Refuse what is right only with ``machines.js``, without which results change places."""
    service = config.get("trainingService")
    if isinstance(service, Mapping) and service.get("platform") == "remote":
        raise InputError(
            "trainingService.platform: remote needs `sedona-nni run`, as NNI by itself mixes up "
            "which of the trials on other machines has failed"
        )


def _entry_point(
    method: Callable[Concatenate[BorderTuner, P], R],
) -> Callable[Concatenate[BorderTuner, P], R]:
    """Make one of NNI's calls exclusive and its exceptions visible.

    NNI calls from two threads. Left to itself, it writes an exception to a log file and goes on
    waiting for ever with the status RUNNING.
    """

    @functools.wraps(method)
    def guarded(self: BorderTuner, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            try:
                return method(self, *args, **kwargs)
            except nni.NoMoreTrialError:
                raise
            except Exception as error:
                self.give_up(error)
                if self._report_error is None:  # NNI can be told when it asks for trials
                    return cast(R, None)
                raise

    return guarded


class BorderTuner(Tuner):
    """A tuner that hands out its source's trials, and ends the experiment after the last.

    It is the source's `strategies.sources.source.Host`. A subclass is a name in experiments.

    Attributes:
        source: Where trials come from.
        checkpoint: Folder of what outlives the tuner.
        lock: Held while NNI calls; whoever calls from another thread takes it.
    """

    def __init__(self, **class_args: Any) -> None:
        """Keep ``tuner.classArgs`` for the source.

        Nothing else happens here: NNI kills a tuner that is not ready after 10 seconds, and has
        no way to show an error raised here.
        """
        super().__init__()
        own = type(self)
        name = f"{own.__module__}.{own.__qualname__}"
        self.source = self.new_source({"className": name, "classArgs": class_args})
        self.checkpoint = Path()
        self.lock = threading.RLock()
        self._error: BaseException | None = None
        self._configured = False
        self._send: Callable[[int, Parameters], None] | None = None
        self._report_error: Callable[[str], None] | None = None
        self._dispatcher: Any = None
        self._running: dict[int, Parameters] = {}
        self._owed = 0
        self._announced: int | None = None
        self._ending = False
        self._messenger: int | None = None

    def new_source(self, tuner: Mapping[str, Any]) -> TrialSource:
        """Return where trials come from.

        Args:
            tuner: ``className`` and ``classArgs``.
        """
        return source_type(tuner["className"])(tuner, self)

    # What its source may call

    @staticmethod
    def experiment_config() -> dict[str, Any]:
        """Return the whole configuration of the experiment, paths made absolute by NNI."""
        encoded = sys.argv[sys.argv.index("--exp_params") + 1]
        config: dict[str, Any] = json.loads(base64.b64decode(encoded))
        return config

    @property
    def is_supervised(self) -> bool:
        """Whether ``sedona-nni`` has started the experiment, and so has checked it before."""
        return RUN_MARK in os.environ

    @property
    def free_slots(self) -> int:
        """How many more trials NNI would run at the same time."""
        return self._owed

    def manager(self) -> ManagerApi:
        """Return the interface of the manager that has started the tuner."""
        channel = os.environ["NNI_TUNER_COMMAND_CHANNEL"]  # ws://localhost:8080[/prefix]/tuner
        address = "http" + channel.removeprefix("ws").removesuffix("/tuner")
        return ManagerApi(address, self.checkpoint.parent.name)

    def supply(self) -> None:
        """Start trials in free slots, and end the experiment when all is done.

        For sources that find out about new trials outside of NNI's calls.
        """
        with self.lock:
            while self._owed and self._send is not None:
                parameters = self.source.next_parameters()
                if parameters is None:
                    break
                self._owed -= 1
                # A number of the dispatcher's own counter, so that it never meets it again.
                parameter_id = msg_dispatcher._create_parameter_id()
                self._running[parameter_id] = parameters
                self._send(parameter_id, with_summary(parameters, self.source.summary(parameters)))
            if self._send is not None and not self._ending and self._is_done():
                self._ending = True
                finish_mark(self.checkpoint).touch()
                # Without this the experiment would stay in TUNER_NO_MORE_TRIAL for ever.
                self.manager().end_experiment()

    def give_up(self, error: BaseException) -> None:
        """End the experiment with the status ERROR and tell the user why."""
        with self.lock:
            if self._error is not None:
                return
            self._error = error
            described = TunerError.of(error, self.checkpoint)
            with contextlib.suppress(UnwritableError):  # which may be the error
                described.save(self.checkpoint)
            _logger.error("gave up", exc_info=error)
            tell(f"sedona-nni: {described.message}")
            if self._report_error is not None:
                self._report_error(described.message)

    # What NNI calls

    @_entry_point
    def update_search_space(self, search_space: dict[str, Any]) -> None:
        """Configure the tuner; NNI calls this first."""
        if self._configured:
            tell("sedona-nni: the search space of a running experiment cannot be changed")
            return
        self._configured = True
        self.checkpoint = checkpoint_folder()
        without_proxy()
        TunerError.clear(self.checkpoint)
        if (manager := own_manager()) is not None:
            _show_gpus(manager)
            if not self.is_supervised:
                _warn_of_network(manager)
        if not self.is_supervised:
            _refuse_machines(self.experiment_config())
        self.source.configure(search_space)

    @_entry_point
    def generate_multiple_parameters(
        self, parameter_id_list: Sequence[int], **kwargs: Any
    ) -> list[Parameters]:
        """Return parameters for as many of the wanted trials as there are now.

        The others are owed: `supply` starts them when there are some.
        """
        wanted = list(parameter_id_list)
        if self._send is None:
            self._introduce(kwargs["st_callback"].__self__)
            if self._error is not None:
                return self._message(self._error, wanted)
            if self._is_too_early():
                self._owed += len(wanted)
                return []
            # After a resume, NNI asks for a full set of trials in addition to those it runs again.
            # The first numbers are those that NNI uses.
            wanted = wanted[: max(0, len(wanted) - self._connect(kwargs["st_callback"]))]
        found: list[Parameters] = []
        for parameter_id in wanted:
            parameters = self.source.next_parameters()
            if parameters is None:
                break
            self._running[parameter_id] = parameters
            found.append(with_summary(parameters, self.source.summary(parameters)))
        self._owed += len(wanted) - len(found)
        self.supply()
        return found

    @_entry_point
    def receive_trial_result(
        self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any
    ) -> None:
        """Take a final result. ``parameters`` is not looked at: NNI mixes it up."""
        known = self._running.pop(parameter_id, None)
        if known is not None:
            self.source.succeeded(known, self._unpacked(value, kwargs.get("trial_job_id")))
            self.supply()

    @_entry_point
    def trial_end(self, parameter_id: int | None, success: bool, **kwargs: Any) -> None:
        """Take note of a trial that ended; a final result may come before or after."""
        if parameter_id is None:  # somebody has added it in the web UI
            self._make_room()
        elif parameter_id == self._messenger:
            self._report(self._error)
        elif parameter_id in self._running:
            self._trial_ended(parameter_id, success)

    @_entry_point
    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Take the results of the earlier sessions of a resumed experiment.

        ``"parameter"`` is not looked at: NNI pairs it with the wrong result.
        """
        for entry in data:
            result = self._unpacked(entry["value"], entry.get("trialJobId"))
            if isinstance(result, dict) and "key" in result:
                self.source.succeeded({"key": result["key"]}, result)
            else:
                _logger.warning("ignored an imported result without a key: %s", result)

    @_entry_point
    def _take_intermediate(self, data: dict[str, Any]) -> None:
        """Take what a trial reports on its way, in place of an assessor.

        NNI's own way to one would wait for ever for reports that it sent while a resumed tuner was
        being configured.
        """
        parameters = self._running.get(data["parameter_id"])
        if parameters is not None and self.source.is_hopeless(parameters, data["value"]):
            self._dispatcher.send(CommandType.KillTrialJob, json.dumps(data["trial_job_id"]))
            del self._running[data["parameter_id"]]  # whatever may still come of it
            tell(f"sedona-nni: trial {parameters.get('key')}: stopped early")
            self.supply()

    # Details

    def _is_done(self) -> bool:
        return not self._running and self.source.finished()

    def _introduce(self, dispatcher: Any) -> None:
        """Get to know NNI's dispatcher, the only one that can be told about errors."""
        self._dispatcher = dispatcher
        self._report_error = dispatcher.report_error
        dispatcher.assessor = Assessor()  # or the next is never called
        dispatcher._handle_intermediate_metric_data = self._take_intermediate

    def _message(self, error: BaseException, wanted: list[int]) -> list[Parameters]:
        """Let a trial that fails at once say why there will be none, so that the web UI shows it.

        All that NNI would show is "Dispatcher stream error, tuner may have crashed".
        """
        if self.is_supervised or os.environ.get("NNI_MODE") == "resume":
            self._report(error)
            raise error
        if self._messenger is not None:
            return []
        self._messenger = wanted[0]
        timer = threading.Timer(_MESSENGER_S, self._report, [error])  # should it never run
        timer.daemon = True
        timer.start()
        return [{"key": "error", ERROR_PARAMETER: TunerError.of(error, self.checkpoint).message}]

    def _report(self, error: BaseException | None) -> None:
        if error is not None and self._report_error is not None:
            self._report_error(TunerError.of(error, self.checkpoint).message)

    def _is_too_early(self) -> bool:
        """Return whether NNI has not yet said which trials it runs again after a resume.

        It starts them while the tuner is being configured. When one ends meanwhile, NNI asks for
        the next before it has introduced them.
        """
        recovered: int = self._dispatcher.recovered_max_param_id
        return os.environ.get("NNI_MODE") == "resume" and recovered < 0

    def _connect(self, send: Callable[[int, Parameters], None]) -> int:
        """Start to hand out trials, and take over those that NNI runs again after a resume.

        NNI by itself would call nobody when one of those fails, and hand over their results as
        imports. One that has ended meanwhile may have been told of to nobody, see its record.

        Args:
            send: Starts a trial.

        Returns:
            The number of trials that run again.
        """
        self._send = send
        recovered: dict[int, Parameters] = self._dispatcher.recovered_trial_params
        msg_dispatcher._trial_params.update(recovered)
        self._dispatcher.recovered_max_param_id = -1  # i.e. none is an earlier session's
        again = {number: without_summary(parameters) for number, parameters in recovered.items()}
        self._running.update(again)
        self.source.resumed(list(again.values()))
        remaining = self.source.remaining()
        if remaining is not None and self._may_announce():
            self._announce(len(self._jobs()) + remaining)
        for parameter_id in recovered:
            job = self._job(parameter_id)
            if job is not None and job["status"] in _ENDED:
                self._trial_ended(parameter_id, job["status"] == _SUCCEEDED)
        return len(recovered)

    def _make_room(self) -> None:
        """Let a trial that is not ours take neither the place of one that is, nor its request.

        NNI does not ask for the next trial when the maximum is reached.
        """
        if self._announced is not None:
            self._announce(self._announced + 1)
            self._owed += 1
            self.supply()

    def _may_announce(self) -> bool:
        """Return whether the experiment's file leaves open how many trials there are."""
        given = self.experiment_config().get("maxTrialNumber")
        return given is None or given == _read_number(self.checkpoint / ANNOUNCED_FILE)

    def _announce(self, number: int) -> None:
        """Let the web UI say "3/13" in place of "3/Infinity"."""
        self._announced = max(1, number)
        write_json(self.checkpoint / ANNOUNCED_FILE, self._announced)
        self.manager().set_max_trials(self._announced)

    def _trial_ended(self, parameter_id: int, success: bool) -> None:
        if success:
            timer = threading.Timer(_FINAL_RESULT_GRACE_S, self._settle, [parameter_id])
            timer.daemon = True
            timer.start()
        elif (job := self._job(parameter_id)) is not None and job["status"] == _KILLED:
            self._settle_as_killed(parameter_id)
        else:
            self._settle_as_failed(
                parameter_id, f"the trial failed{self._last_words(parameter_id)}"
            )

    @_entry_point
    def _settle(self, parameter_id: int) -> None:
        """Look up a result that did not come: NNI loses one now and then after a resume."""
        if parameter_id in self._running:
            job = self._job(parameter_id) or {}
            result = self._unpacked(final_metric(job), job.get("trialJobId"))
            if result is not None:
                self.source.succeeded(self._running.pop(parameter_id), result)
                self.supply()
            else:
                self._settle_as_failed(parameter_id, "the trial ended without a final result")

    def _settle_as_failed(self, parameter_id: int, reason: str) -> None:
        parameters = self._running.pop(parameter_id)
        tell(f"sedona-nni: trial {parameters.get('key')}: {reason}")
        self.source.failed(parameters, reason)
        self.supply()

    def _settle_as_killed(self, parameter_id: int) -> None:
        """Let the trial run again, as another of NNI's and in the place of the one that was killed.

        NNI asks for another in its place, too, unless there are as many as were announced.
        """
        reason = f"the trial was killed{self._last_words(parameter_id)}"
        parameters = self._running.pop(parameter_id)
        tell(f"sedona-nni: trial {parameters.get('key')}: {reason}")
        self.source.killed(parameters, reason)
        if self._announced is not None:
            self._owed += len(self._jobs()) >= self._announced
            self._announce(self._announced + 1)
        self.supply()

    def _last_words(self, parameter_id: int) -> str:
        """Return the end of what a trial wrote to its standard error."""
        job = self._job(parameter_id)
        if job is None:
            return ""
        text = str(self.manager().get(f"trial-file/{job['trialJobId']}/stderr")).strip()
        return ":\n" + "\n".join(text.splitlines()[-_STDERR_LINES:])

    def _unpacked(self, result: Any, trial_id: str | None) -> Any:
        folder = None if trial_id is None else trial_folder(self.checkpoint.parent, trial_id)
        return unpacked(result, folder)

    def _jobs(self) -> list[dict[str, Any]]:
        """Return NNI's records of all trials."""
        jobs: list[dict[str, Any]] = self.manager().get("trial-jobs")
        return jobs

    def _job(self, parameter_id: int) -> dict[str, Any] | None:
        """Return NNI's record of a trial; numbers are used again after a resume: the latest."""
        jobs = [
            job for job in self._jobs() if trial_record(job).get("parameter_id") == parameter_id
        ]
        return max(jobs, key=lambda job: job.get("startTime") or math.inf, default=None)


def _read_number(path: Path) -> int | None:
    return int(read_json(path)) if path.exists() else None
