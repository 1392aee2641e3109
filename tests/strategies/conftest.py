"""NNI's real dispatcher around a tuner, without a manager."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Dispatch:
    """Plays the manager: sends commands to NNI's own dispatcher and keeps what it answers."""

    def __init__(self, tuner: Any, folder: Path) -> None:
        from nni.runtime.msg_dispatcher import MsgDispatcher

        self.tuner = tuner
        self.source = tuner.source
        self.folder = folder
        self.dispatcher = MsgDispatcher("ws://_unittest_", tuner)
        self.dispatcher.send = self._sent  # type: ignore[method-assign]
        self.trials: dict[int, dict[str, Any]] = {}
        self.started: list[str] = []
        self.finals: dict[int, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.statuses: dict[int, str] = {}
        self.error: str | None = None
        self.ended = False
        self.max_trials: int | None = None
        tuner.manager = lambda: self

    def _sent(self, command: Any, data: str) -> None:
        from nni.runtime.tuner_command_channel import CommandType

        if command is CommandType.NewTrialJob:
            trial = json.loads(data)
            self.trials[trial["parameter_id"]] = trial
            self.started.append(trial["parameters"]["key"])
        elif command is CommandType.KillTrialJob:
            self.stopped.append(json.loads(data))
        elif command is CommandType.Error:
            self.error = data

    # The manager's REST interface, as far as a tuner needs it

    def end_experiment(self) -> None:
        self.ended = True

    def set_max_trials(self, number: int) -> None:
        self.max_trials = number

    def get(self, path: str) -> Any:
        if path == "trial-jobs":
            return [
                {
                    "trialJobId": f"job{number}",
                    "status": self.statuses.get(number, "RUNNING"),
                    "hyperParameters": [json.dumps(trial)],
                    "finalMetricData": [
                        {"data": json.dumps(json.dumps(value))}
                        for n, value in self.finals.items()
                        if n == number
                    ],
                }
                for number, trial in self.trials.items()
            ]
        return f"Traceback of {path}"

    # The manager's commands

    def initialize(self, search_space: dict[str, Any] | None = None) -> None:
        self.dispatcher.handle_initialize(search_space or {})

    def request(self, count: int = 1) -> None:
        self.dispatcher.handle_request_trial_jobs(count)

    def final(self, key: str, **result: Any) -> None:
        value = {"key": key, "default": 0.5, **result}
        self.dispatcher.handle_report_metric_data(
            {"parameter_id": self.number(key), "type": "FINAL", "value": json.dumps(value)}
        )

    def intermediate(self, key: str, sequence: int, **metrics: Any) -> None:
        self.dispatcher.handle_report_metric_data(
            {
                "parameter_id": self.number(key),
                "trial_job_id": key,
                "type": "PERIODICAL",
                "sequence": sequence,
                "value": json.dumps(metrics),
            }
        )

    def end(self, key: str, event: str = "SUCCEEDED", *, asks: bool = True) -> None:
        """End a trial; the manager then asks for another one, unless there are enough."""
        number = self.number(key)
        trial = self.trials[number]
        self.statuses[number] = event  # first, as NNI does it
        self.dispatcher.handle_trial_end(
            {"trial_job_id": "job", "event": event, "hyper_params": json.dumps(trial)}
        )
        if asks:
            self.request()

    def succeed(self, key: str, **result: Any) -> None:
        self.final(key, **result)
        self.end(key)

    def number(self, key: str) -> int:
        return max(n for n, trial in self.trials.items() if trial["parameters"]["key"] == key)


@pytest.fixture
def dispatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dispatch]:
    """Return a function that puts NNI's dispatcher around a tuner, for a session."""
    from nni.runtime import msg_dispatcher

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(checkpoint))
    monkeypatch.setenv("NNI_TUNER_COMMAND_CHANNEL", "ws://localhost:1/tuner")
    monkeypatch.setenv("SEDONA_NNI_RUN", "as by `sedona-nni run`")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")

    def session(tuner: Any) -> Dispatch:
        # NNI's counters start again in each process
        monkeypatch.setattr(msg_dispatcher, "_next_parameter_id", 0)
        monkeypatch.setattr(msg_dispatcher, "_trial_params", {})
        tuner.experiment_config = lambda: {"trialCodeDirectory": str(tmp_path)}
        return Dispatch(tuner, checkpoint)

    return session
