"""`sedona_nni.strategies.nni_border.tuner` under NNI's own dispatcher."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from sedona_nni.errors import InputError
from sedona_nni.strategies.nni_border import tuner as border
from sedona_nni.strategies.nni_border.terminal import TunerError, finish_mark
from sedona_nni.strategies.nni_border.tuner import BorderTuner
from sedona_nni.strategies.sources.source import TrialSource


class CountingSource(TrialSource):
    """Hands out ``total`` trials, of which ``ready`` are ready; a method may be told to fail."""

    def configure(self, search_space: dict[str, Any]) -> None:
        self.class_args = self.tuner["classArgs"]
        self.ready = self.class_args.get("ready", 100)
        self.total = self.class_args.get("total", 100)
        self.handed_out = 0
        self.results: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.again: list[str] = []
        self.killed_ones: list[str] = []
        self._maybe_fail("configure")

    def _maybe_fail(self, method: str) -> None:
        if self.class_args.get("fault") == method:
            raise self.class_args.get("error", ZeroDivisionError)(f"in {method}")

    def next_parameters(self) -> dict[str, Any] | None:
        self._maybe_fail("next_parameters")
        if self.killed_ones:
            return {"key": self.killed_ones.pop()}
        if self.handed_out == min(self.ready, self.total):
            return None
        self.handed_out += 1
        return {"key": f"t{self.handed_out}"}

    def finished(self) -> bool:
        self._maybe_fail("finished")
        return self.handed_out == self.total and not self.killed_ones

    def succeeded(self, parameters: dict[str, Any], result: Any) -> None:
        self._maybe_fail("succeeded")
        self.results[parameters["key"]] = result["default"]

    def failed(self, parameters: dict[str, Any], reason: str) -> None:
        self._maybe_fail("failed")
        self.failures[parameters["key"]] = reason

    def remaining(self) -> int | None:
        return self.class_args.get("remaining")

    def killed(self, parameters: dict[str, Any], reason: str) -> None:
        self.killed_ones.append(parameters["key"])

    def resumed(self, running: list[dict[str, Any]]) -> None:
        self._maybe_fail("resumed")
        self.again = [parameters["key"] for parameters in running]


class Counting(BorderTuner):
    def new_source(self, tuner: Mapping[str, Any]) -> TrialSource:
        return CountingSource(tuner, self)


def started(dispatch: Any, concurrency: int = 2, **class_args: Any) -> Any:
    nni = dispatch(Counting(**class_args))
    nni.initialize()
    nni.request(concurrency)
    return nni


@pytest.mark.parametrize(
    ("fault", "deed"),
    [
        ("configure", lambda nni: None),
        ("next_parameters", lambda nni: None),
        ("finished", lambda nni: (nni.final("t1"), nni.final("t2"))),
        ("resumed", lambda nni: None),
        ("succeeded", lambda nni: nni.final("t1")),
        ("failed", lambda nni: nni.end("t1", "FAILED")),
    ],
)
def test_an_exception_ends_the_experiment_and_reaches_the_user(
    dispatch: Any, capfd: pytest.CaptureFixture[str], fault: str, deed: Any
) -> None:
    def everything() -> None:
        nni.initialize()
        nni.request(2)
        deed(nni)

    nni = dispatch(Counting(fault=fault, total=2))
    with pytest.raises(ZeroDivisionError):
        everything()
    assert f"ZeroDivisionError: in {fault}" in nni.error  # makes NNI's status ERROR
    assert f"ZeroDivisionError: in {fault}" in capfd.readouterr().err
    stored = TunerError.load(nni.folder)
    assert stored is not None
    assert f"ZeroDivisionError: in {fault}" in stored.message
    assert not stored.is_input_error


def test_trials_on_other_machines_need_what_sedona_nni_adds(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_trials() -> list[dict[str, Any]]:
        nni = dispatch(Counting())
        config = {"trainingService": {"platform": "remote"}}
        monkeypatch.setattr(nni.dispatcher.tuner, "experiment_config", lambda: config)
        nni.initialize()
        nni.request(2)
        return [trial["parameters"] for trial in nni.trials.values()]

    assert [parameters["key"] for parameters in first_trials()] == ["t1", "t2"]
    monkeypatch.delenv("SEDONA_NNI_RUN")
    (parameters,) = first_trials()
    assert parameters["error"].startswith("trainingService.platform: remote needs `sedona-nni run`")


def test_an_exception_of_an_imported_result_is_told_as_soon_as_nni_listens(dispatch: Any) -> None:
    nni = dispatch(Counting(fault="succeeded"))
    nni.initialize()
    nni.dispatcher.handle_import_data([{"parameter": {}, "value": {"key": "t1", "default": 1}}])
    with pytest.raises(ZeroDivisionError):
        nni.request()
    assert "ZeroDivisionError" in nni.error


def test_an_input_error_is_one_line(dispatch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    nni = dispatch(Counting(fault="configure", error=InputError))
    nni.initialize()
    with pytest.raises(InputError):
        nni.request()
    assert nni.error == "in configure"
    assert capfd.readouterr().err == "sedona-nni: in configure\n"
    stored = TunerError.load(nni.folder)
    assert stored is not None
    assert stored.is_input_error


def test_under_plain_nnictl_a_trial_says_in_the_web_ui_why_there_is_none(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nni = dispatch(Counting(fault="configure", error=InputError))
    monkeypatch.delenv("SEDONA_NNI_RUN")
    nni.initialize()
    nni.request(2)
    assert [trial["parameters"] for trial in nni.trials.values()] == [
        {"key": "error", "error": "in configure"}
    ]
    assert nni.error is None  # NNI would start nothing any more
    nni.end("error", "FAILED")
    assert nni.error == "in configure"
    assert nni.started == ["error"]


def test_a_trial_that_says_why_there_is_none_need_not_run(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nni = dispatch(Counting(fault="configure", error=InputError))
    monkeypatch.delenv("SEDONA_NNI_RUN")
    monkeypatch.setattr(border.threading, "Timer", AtOnce)
    nni.initialize()
    nni.request(1)
    assert nni.error == "in configure"


def test_a_tuner_sees_the_gpus_of_trials_and_warns_of_an_open_server(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    anybody = SimpleNamespace(status="LISTEN", laddr=SimpleNamespace(ip="::", port=8080))
    manager = SimpleNamespace(
        environ=lambda: {"CUDA_VISIBLE_DEVICES": "1"}, net_connections=lambda _: [anybody]
    )
    monkeypatch.setattr(border, "own_manager", lambda: manager)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    nni = dispatch(Counting())
    nni.initialize()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("SEDONA_NNI_RUN")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # tunerGpuIndices
    manager.environ = dict
    nni = dispatch(Counting())
    monkeypatch.delenv("SEDONA_NNI_RUN", raising=False)
    nni.initialize()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "at port 8080 is open to the whole network" in capfd.readouterr().err


def test_a_new_session_forgets_the_error_of_the_last(dispatch: Any) -> None:
    nni = dispatch(Counting(fault="configure"))
    nni.initialize()
    again = dispatch(Counting())
    again.initialize()
    assert TunerError.load(nni.folder) is None


def test_own_parameters_are_passed_on_and_not_what_nni_repeats(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=2, ready=1)
    # NNI has replaced the parameters of the first trial when the second was refused
    nni.final("t1", default=0.75)
    assert nni.source.results == {"t1": 0.75}


def test_slots_that_stayed_free_are_filled_as_soon_as_there_is_something_to_do(
    dispatch: Any,
) -> None:
    nni = started(dispatch, concurrency=3, ready=1)
    assert nni.started == ["t1"]
    nni.source.ready = 10
    nni.final("t1")  # the tuner learns something: both free slots, and no more
    assert nni.started == ["t1", "t2", "t3"]
    nni.end("t1")  # the slot of the first
    assert nni.started == ["t1", "t2", "t3", "t4"]
    assert len(set(nni.trials)) == 4


def test_the_experiment_is_ended_after_the_last_trial_and_not_before(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=2, total=3)
    nni.succeed("t1")
    nni.succeed("t2")
    assert not nni.ended
    assert not finish_mark(nni.folder).exists()
    nni.final("t3")
    assert nni.ended
    assert finish_mark(nni.folder).exists()


def test_the_experiment_is_ended_when_the_last_trial_fails(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=1, total=1)
    nni.end("t1", "FAILED")
    assert nni.ended
    assert "Traceback of trial-file/job0/stderr" in nni.source.failures["t1"]


def test_the_end_of_a_trial_may_come_before_its_result(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nni = started(dispatch, concurrency=1, total=1)
    nni.end("t1")
    nni.final("t1")
    assert nni.source.results == {"t1": 0.5}
    assert nni.source.failures == {}


def test_a_failure_after_the_result_changes_nothing(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=1, total=1)
    nni.final("t1")
    nni.end("t1", "FAILED")
    assert nni.source.results == {"t1": 0.5}
    assert nni.source.failures == {}


def test_a_trial_that_ends_without_a_result_has_failed(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(border.threading, "Timer", AtOnce)
    nni = started(dispatch, concurrency=1, total=1)
    nni.end("t1")
    assert nni.source.failures == {"t1": "the trial ended without a final result"}
    assert nni.ended


def test_a_trial_that_was_killed_runs_again_in_its_place(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=1, total=2, remaining=2)
    assert nni.max_trials == 2
    nni.end("t1", "USER_CANCELED")
    assert nni.started == ["t1", "t1"]
    assert nni.max_trials == 3, "each of NNI's trials counts"
    nni.end("t1", "USER_CANCELED")
    nni.succeed("t1")
    assert nni.started == ["t1", "t1", "t1", "t2"]
    assert nni.max_trials == len(nni.trials) == 4
    nni.end("t2", "USER_CANCELED", asks=False)
    assert (nni.started[4:], nni.max_trials) == (["t2"], 5)
    nni.succeed("t2")
    assert nni.source.failures == {}
    assert nni.ended


class AtOnce:
    """A timer that does not wait."""

    daemon = False

    def __init__(self, seconds: float, function: Any, arguments: list[Any]) -> None:
        self.start = lambda: function(*arguments)


def test_trials_of_others_are_ignored(dispatch: Any) -> None:
    nni = started(dispatch, concurrency=1)
    submitted_in_the_web_ui = json.dumps({"parameter_id": None, "parameters": {}})
    nni.dispatcher.handle_trial_end(
        {"trial_job_id": "j", "event": "FAILED", "hyper_params": submitted_in_the_web_ui}
    )
    assert nni.source.failures == {}
    assert nni.error is None


def resume(dispatch: Any, running: dict[int, str], concurrency: int, **class_args: Any) -> Any:
    """Start a session in which NNI runs some trials again."""
    nni = dispatch(Counting(**class_args))
    nni.initialize()
    recovered = [
        {"parameter_id": number, "parameters": {"key": key}} for number, key in running.items()
    ]
    nni.trials = {trial["parameter_id"]: trial for trial in recovered}
    nni.dispatcher.handle_import_data([])
    nni.dispatcher.handle_add_customized_trial(recovered)
    nni.request(concurrency)
    return nni


def test_results_of_trials_that_run_again_after_a_resume_arrive(dispatch: Any) -> None:
    nni = resume(dispatch, {4: "old1", 7: "old2"}, concurrency=2)
    assert nni.source.again == ["old1", "old2"]
    nni.final("old1", default=0.25)
    nni.end("old2", "FAILED")
    assert nni.source.results == {"old1": 0.25}
    assert "old2" in nni.source.failures


def test_trials_that_run_again_after_a_resume_take_their_slots(dispatch: Any) -> None:
    nni = resume(dispatch, {4: "old1"}, concurrency=2)
    assert nni.started == ["t1"]
    nni.succeed("old1")
    assert nni.started == ["t1", "t2"]
    nni.succeed("t1", default=0.25)
    nni.succeed("t2", default=0.75)
    assert nni.source.results == {"old1": 0.5, "t1": 0.25, "t2": 0.75}


def test_a_trial_that_fails_again_before_nni_has_introduced_it_is_not_forgotten(
    dispatch: Any,
) -> None:
    nni = dispatch(Counting())
    nni.initialize()
    trial = {"parameter_id": 4, "parameters": {"key": "old1"}}
    nni.trials = {4: trial}
    nni.end("old1", "FAILED", asks=False)
    nni.dispatcher.handle_add_customized_trial([trial])
    nni.request(1)
    assert "old1" in nni.source.failures


def test_a_trial_that_ends_again_before_nni_has_introduced_it_keeps_its_result(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuner takes longer to configure than the trial to run."""
    monkeypatch.setenv("NNI_MODE", "resume")
    monkeypatch.setattr(border.threading, "Timer", AtOnce)
    nni = dispatch(Counting())
    nni.initialize()
    trial = {"parameter_id": 4, "parameters": {"key": "old1"}}
    nni.trials = {4: trial}
    nni.finals = {4: {"key": "old1", "default": 0.25}}
    nni.final("old1", default=0.25)  # NNI drops it: an unknown trial
    nni.end("old1")  # and asks for the next
    assert nni.started == []
    nni.dispatcher.handle_import_data([])
    nni.dispatcher.handle_add_customized_trial([trial])
    nni.request(2)
    assert nni.source.again == ["old1"]
    assert nni.source.results == {"old1": 0.25}
    assert sorted(nni.started) == ["t1", "t2"]


def test_a_trial_that_ends_again_while_nni_introduces_it_keeps_its_result(
    dispatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result comes too early for NNI's dispatcher, and its end is taken for one of before."""
    monkeypatch.setenv("NNI_MODE", "resume")
    monkeypatch.setattr(border.threading, "Timer", AtOnce)
    nni = dispatch(Counting(total=0))
    nni.initialize()
    trials = [{"parameter_id": n, "parameters": {"key": f"old{n}"}} for n in (4, 5, 6)]
    nni.trials = {4: trials[0], 5: trials[1], 6: trials[2]}
    nni.finals = {4: {"key": "old4", "default": 0.25}}
    nni.final("old4", default=0.25)
    nni.dispatcher.handle_add_customized_trial(trials)
    nni.end("old4", asks=False)
    nni.end("old5", "FAILED", asks=False)
    nni.request(2)
    assert nni.source.results == {"old4": 0.25}
    assert [*nni.source.failures] == ["old5"]
    assert not nni.ended  # the third runs still
    nni.succeed("old6")
    assert nni.ended


def test_imported_results_are_recognised_by_their_key(dispatch: Any) -> None:
    nni = dispatch(Counting())
    nni.initialize()
    nni.dispatcher.handle_import_data(
        [
            {"parameter": {"key": "other"}, "value": {"key": "t1", "default": 0.25}},
            {"parameter": {}, "value": 0.5},
        ]
    )
    assert nni.source.results == {"t1": 0.25}


def test_a_change_of_the_search_space_is_refused_and_said(
    dispatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    nni = started(dispatch)
    nni.dispatcher.handle_update_search_space({})
    assert "cannot be changed" in capfd.readouterr().err
    assert nni.source.handed_out == 2


class PlanningSource(CountingSource):
    """Says what the web UI shows, and how many trials there will be."""

    def next_parameters(self) -> dict[str, Any] | None:
        parameters = super().next_parameters()
        return None if parameters is None else {**parameters, "lr": 0.1, "task": {"data": "digits"}}

    def summary(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: parameters[name] for name in ("key", "lr")}

    def remaining(self) -> int:
        return int(self.total - self.handed_out)


class Planning(BorderTuner):
    def new_source(self, tuner: Mapping[str, Any]) -> TrialSource:
        return PlanningSource(tuner, self)


def planning(dispatch: Any, given: int | None = None, **class_args: Any) -> Any:
    nni = dispatch(Planning(**class_args))
    config = {"trialCodeDirectory": ".", "maxTrialNumber": given}
    nni.tuner.experiment_config = lambda: config
    nni.initialize()
    return nni


def test_trials_are_sent_with_a_summary_for_the_web_ui(dispatch: Any) -> None:
    nni = planning(dispatch, ready=1, total=2)
    nni.request(2)
    nni.source.ready = 2
    nni.tuner.supply()  # the other way by which trials start
    for number, sent in enumerate(nni.trials.values(), start=1):
        key = f"t{number}"
        assert sent["parameters"] == {
            "key": key,
            "lr": 0.1,
            "task": {"data": "digits"},
            "mutation_summary": {"key": key, "lr": 0.1},
        }
    nni.final("t1", details={"default": 0.75})
    assert nni.source.results == {"t1": 0.75}


def test_the_number_of_trials_is_announced_unless_the_file_gives_one(dispatch: Any) -> None:
    nni = planning(dispatch, total=13)
    nni.request(2)
    assert nni.max_trials == 13
    nni = planning(dispatch, total=13, given=5)
    nni.request(2)
    assert nni.max_trials is None


def test_after_a_resume_the_trials_of_before_are_counted_too(dispatch: Any) -> None:
    before = planning(dispatch, total=13)
    before.request(2)
    # one was finished, one runs again, and the tuner has 4 more
    nni = planning(dispatch, total=4, given=13)
    again = {"parameter_id": 1, "parameters": {"key": "t2"}}
    nni.trials = {0: before.trials[0], 1: again}
    nni.dispatcher.handle_add_customized_trial([again])
    nni.request(1)
    assert nni.max_trials == 2 + 4


def test_a_number_that_somebody_has_set_since_stays(dispatch: Any) -> None:
    planning(dispatch, total=13).request(2)
    nni = planning(dispatch, total=13, given=7)
    nni.request(2)
    assert nni.max_trials is None


def test_a_trial_that_is_added_in_the_web_ui_takes_no_place(dispatch: Any) -> None:
    nni = planning(dispatch, total=3)
    nni.request(1)
    nni.succeed("t1")
    submitted_in_the_web_ui = json.dumps({"parameter_id": None, "parameters": {}})
    nni.dispatcher.handle_trial_end(
        {"trial_job_id": "j", "event": "SUCCEEDED", "hyper_params": submitted_in_the_web_ui}
    )
    assert nni.max_trials == 4
    assert nni.started == ["t1", "t2", "t3"]  # NNI had dropped its request at the maximum
