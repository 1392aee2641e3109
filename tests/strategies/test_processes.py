"""`strategies.processes`: experiments without NNI's manager, with real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from full_disk import full_disk

from sedona_nni.errors import InputError
from sedona_nni.files import read_json
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.checkpoint import LEDGER_FILE, STUDY_FILE
from sedona_nni.strategies.nni_border.wire import trial_folder
from sedona_nni.strategies.process_trial import HOST, OUTPUT, host_mark
from sedona_nni.strategies.processes import ProcessExperiment, in_folder, restore
from sedona_nni.strategies.watched import Outcome

TRIAL = Path(__file__).parents[1] / "support" / "folder_trial.py"
EVOLUTION = {
    "strategy": "regularized_evolution",
    "strategy_args": {"population_size": 2, "sample_size": 2},
    "max_trials": 4,
    "compare": None,
    "trials_per_strategy": None,
    "aux": ["conv1", "conv2"],
}

Configured = Callable[..., dict[str, Any]]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """Return a function that makes an experiment of trials that behave as told."""
    work = tmp_path / "work"
    work.mkdir()

    def config(
        tuner: str = "tuner.SedonaTuner",
        *,
        trials: dict[str, Any] | None = None,
        class_args: dict[str, Any] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        given = {
            "task": {"backbone": "vgg11"},
            "num_blocks": 2,
            "compare": ["uniform"],
            "trials_per_strategy": 2,
            **(class_args or {}),
        }
        (work / "plan.json").write_text(json.dumps(trials or {}))
        return {
            "trialCommand": shlex.join([sys.executable, str(TRIAL)]),
            "trialCodeDirectory": str(work),
            "trialConcurrency": 1,
            "trainingService": {"platform": "local"},
            "searchSpace": {},
            "tuner": {
                "className": f"sedona_nni.strategies.{tuner}",
                "classArgs": {name: value for name, value in given.items() if value is not None},
            },
            **changes,
        }

    return config


def to_its_end(experiment: ProcessExperiment, seconds: float = 60) -> Outcome:
    give_up_at = time.monotonic() + seconds
    for _, outcome in experiment.polls():
        assert time.monotonic() < give_up_at, "waited in vain"
        if outcome is not None:
            return outcome
    raise AssertionError("polls end with an outcome")


def run(folder: Path, config: dict[str, Any]) -> Outcome:
    with in_folder(folder, config) as experiment:
        return to_its_end(experiment)


def statuses(folder: Path) -> dict[str, str]:
    return {record.key: record.status for record in Ledger(folder / "checkpoint" / LEDGER_FILE)}


def starts(folder: Path, key: str) -> int:
    return len((trial_folder(folder, key) / "starts").read_text().splitlines())


def left_of(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOST) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def test_to_the_end(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with in_folder(folder, configured(trials={"train": {"accuracies": [0.1, 0.7]}})) as experiment:
        seen = [trials for trials, _ in experiment.polls()]
        assert experiment.outcome() == Outcome(0)
        assert experiment.has_finished
        assert experiment.latest_intermediate("uniform-001") == {
            "default": 0.7, "epoch": 2, "epochs": 2
        }  # fmt: skip
    assert statuses(folder) == dict.fromkeys(
        ["search", "uniform-000", "uniform-001", "sedona-000", "sedona-001"], "succeeded"
    )
    assert [trial.status for trial in seen[-1]] == ["SUCCEEDED"] * 5
    assert {trial.accuracy for trial in seen[-1] if trial.is_training} == {0.7}
    assert max(sum(t.status == "RUNNING" for t in trials) for trials in seen) == 1
    assert run(folder, configured()) == Outcome(0)
    assert {starts(folder, key) for key in statuses(folder)} == {1}


def test_as_many_as_may_run_at_once(configured: Configured, tmp_path: Path) -> None:
    config = configured(trials={"search": {"seconds": 1}}, trialConcurrency=3)
    with in_folder(tmp_path / "run", config) as experiment:
        trials, _ = next(experiment.polls())
    assert [t.key for t in trials if t.status == "RUNNING"] == [
        *("search", "uniform-000", "uniform-001")
    ]


@pytest.mark.parametrize(
    ("concurrency", "threads", "expected"), [(1, None, None), (3, None, 2), (9, None, 1), (3, 5, 5)]
)
def test_trials_at_the_same_time_share_the_processors(
    concurrency: int,
    threads: int | None,
    expected: int | None,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sedona_nni.strategies.sources.ledger.usable_cores", lambda: 7)
    config = configured(class_args={"threads": threads}, trialConcurrency=concurrency)
    with in_folder(tmp_path / "run", config) as experiment:
        trials, _ = next(experiment.polls())
    assert {trial.trial.machine.threads for trial in trials if trial.trial} == {expected}


def test_a_strategy_of_nni(configured: Configured, tmp_path: Path) -> None:
    """It asks from a thread of its own."""
    folder = tmp_path / "run"
    assert run(folder, configured("bridge.BridgeTuner", class_args=EVOLUTION)) == Outcome(0)
    assert [*statuses(folder).values()] == ["succeeded"] * 4


def test_trials_are_those_of_an_experiment_under_nni(
    configured: Configured, dispatch: Any, tmp_path: Path
) -> None:
    from sedona_nni.strategies.tuner import SedonaTuner

    space = {"lr": {"_type": "loguniform", "_value": [0.01, 0.2]}}
    config = configured(searchSpace=space)
    folder = tmp_path / "run"
    run(folder, config)
    nni = dispatch(SedonaTuner(**config["tuner"]["classArgs"]))
    nni.initialize(space)
    nni.request()
    result = read_json(trial_folder(folder, "search") / "final-result.json")["search_result"]
    for key in nni.started:  # grows meanwhile
        nni.succeed(key, search_result=result)
    ours = [record.parameters for record in Ledger(folder / "checkpoint" / LEDGER_FILE)]
    assert ours == [record.parameters for record in nni.source.ledger]
    assert {trial.hyperparameters["lr"] for trial in ours[1:]}  # type: ignore[union-attr]


def test_interrupted_it_leaves_nothing_and_goes_on(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    slow = configured(trials={"uniform-001": {"accuracies": [0.5] * 600, "seconds": 0.1}})
    with in_folder(folder, slow) as experiment:
        for _ in experiment.polls():
            if experiment.latest_intermediate("uniform-001") is not None:
                break
        mark = host_mark()  # ours: the host is this process
        assert len(left_of(mark)) >= 1
    assert left_of(mark) == []
    assert statuses(folder)["uniform-001"] == "running"
    ended = {key for key, status in statuses(folder).items() if status == "succeeded"}
    assert ended >= {"search", "uniform-000"}
    assert run(folder, configured()) == Outcome(0)
    assert set(statuses(folder).values()) == {"succeeded"}
    assert {key: starts(folder, key) for key in statuses(folder)} == {
        key: 2 if key == "uniform-001" else 1 for key in statuses(folder)
    }


def test_a_trial_ends_when_its_host_was_killed(configured: Configured, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "config.json"
    config = configured(trials={"search": {"accuracies": [0.5] * 600, "seconds": 0.1}})
    file.write_text(json.dumps(config))
    code = f"""
import json, pathlib
from sedona_nni.strategies.processes import in_folder
config = json.loads(pathlib.Path({str(file)!r}).read_text())
with in_folder(pathlib.Path({str(folder)!r}), config) as experiment:
    for _ in experiment.polls():
        pass
"""
    host = subprocess.Popen([sys.executable, "-c", code])
    errors = trial_folder(folder, "search") / "stderr"
    while not (errors.parent / "reports.jsonl").exists():
        assert host.poll() is None
        time.sleep(0.1)
    host.send_signal(signal.SIGKILL)
    host.wait()
    give_up_at = time.monotonic() + 30
    while "has ended; the same command goes on" not in errors.read_text():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    assert run(folder, configured()) == Outcome(0)


def test_a_failing_search_ends_it_with_its_last_words(
    configured: Configured, tmp_path: Path
) -> None:
    outcome = run(tmp_path / "run", configured(trials={"search": {"fail": True}}))
    assert outcome.exit_code == 1
    assert outcome.message.endswith("the trial failed:\nthere is no luck today")


def test_a_failing_training_is_not_repeated(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = configured(trials={"uniform-000": {"fail": True}, "uniform-001": {"silent": True}})
    assert run(folder, config) == Outcome(0)
    assert statuses(folder)["uniform-000"] == statuses(folder)["uniform-001"] == "failed"
    assert statuses(folder)["sedona-001"] == "succeeded"
    reasons = {r.key: r.reason for r in Ledger(folder / "checkpoint" / LEDGER_FILE)}
    assert reasons["uniform-001"] == "the trial ended without a final result"


def test_a_trial_that_is_killed_is_started_again(configured: Configured, tmp_path: Path) -> None:
    """Before any other, so that what follows is as if nothing had been; but not for ever."""
    folder = tmp_path / "run"
    config = configured(trials={"search": {"kills": 1}, "uniform-000": {"kills": 9}})
    with in_folder(folder, config) as experiment:
        seen = {(each.key, each.status) for trials, _ in experiment.polls() for each in trials}
    assert ("search", "USER_CANCELED") in seen
    assert statuses(folder) == {
        **dict.fromkeys(["search", "uniform-001", "sedona-000", "sedona-001"], "succeeded"),
        "uniform-000": "failed",
    }
    assert (starts(folder, "search"), starts(folder, "uniform-000")) == (2, 3)
    (reason,) = (r.reason for r in Ledger(folder / "checkpoint" / LEDGER_FILE) if r.reason)
    assert reason.startswith("the trial was killed:\n")
    assert reason.endswith("which was so 3 times")


def test_nothing_fails_for_a_full_disk(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that fails where nothing can be written is not lost: it runs when there is room."""
    folder = tmp_path / "run"
    config = configured(trials={"uniform-000": {"fail": True, "seconds": 1}})
    with in_folder(folder, config) as experiment:
        for trials, _ in experiment.polls():
            if any(each.key == "uniform-000" for each in trials):
                break
        with full_disk(2**19):
            outcome = to_its_end(experiment)
    assert outcome.exit_code == 2
    assert outcome.message == f"{folder}/checkpoint/room: cannot be written (File too large)"
    assert statuses(folder)["uniform-000"] == "running"
    assert run(folder, configured()) == Outcome(0)
    assert set(statuses(folder).values()) == {"succeeded"}


def test_a_trial_that_has_outlived_its_run_is_ended_by_the_next(
    configured: Configured, tmp_path: Path
) -> None:
    """As its host would have ended it, if it had not been stopped itself."""
    folder = tmp_path / "run"
    config = configured(trials={"search": {"accuracies": [0.5] * 600, "seconds": 0.1}})
    with in_folder(folder, config) as experiment:
        next(experiment.polls())
        place = trial_folder(folder, "search")
        former = subprocess.Popen(["sleep", "600"], env={**os.environ, OUTPUT: str(place)})
    assert run(folder, configured()) == Outcome(0)
    assert former.wait(10) == -signal.SIGKILL


def test_what_a_signal_has_stopped_is_known(configured: Configured, tmp_path: Path) -> None:
    config = configured(trials={"search": {"accuracies": [0.5] * 600, "seconds": 0.1}})
    with in_folder(tmp_path / "run", config) as experiment:
        next(experiment.polls())
        assert experiment.stopped() == []
        trial = None
        while trial is None:  # while it becomes the program that it runs it shows no mark
            trials = (each for each in left_of(host_mark()) if each.pid != os.getpid())
            trial = next(trials, None)
        trial.suspend()
        while not (stopped := experiment.stopped()):
            time.sleep(0.05)
        assert [each.pid for each in stopped] == [trial.pid]
        began = time.monotonic()
    assert time.monotonic() - began < 15, "it was killed, and not let go on and interrupted"


def test_a_hopeless_training_is_stopped(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    poor = {"accuracies": [0.1] * 200, "seconds": 0.02}
    good = {"accuracies": [0.9] * 4}
    config = configured(
        "tuner.OptunaTuner",
        class_args={
            "compare": [],
            "decoupling": "uniform:2:conv1",
            "name": "halves",
            "num_blocks": None,
            "trials_per_strategy": 7,
            "pruner": "median",
        },
        trials={"train": good, "halves-006": poor},
    )
    assert run(folder, config) == Outcome(0)
    assert statuses(folder)["halves-006"] == "stopped"
    reports = (trial_folder(folder, "halves-006") / "reports.jsonl").read_text()
    assert len(reports.splitlines()) < 200


def test_limits_end_it_and_can_be_raised(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with in_folder(folder, configured(maxTrialNumber=2)) as experiment:
        assert to_its_end(experiment) == Outcome(0)
        assert not experiment.has_finished
        assert experiment.reached_limit() == "maxTrialNumber is 2"
    assert len(statuses(folder)) == 2
    with in_folder(folder, configured(maxExperimentDuration="0.001s")) as experiment:
        assert to_its_end(experiment) == Outcome(0)
        assert experiment.reached_limit() == "maxExperimentDuration is 0.001s"
    assert len(statuses(folder)) == 2
    assert run(folder, configured()) == Outcome(0)
    assert len(statuses(folder)) == 5


def test_what_a_run_left_that_ended_before_it_began_is_no_obstacle(
    configured: Configured, tmp_path: Path
) -> None:
    """As one without file descriptors does, between the folder and the note of what runs there."""
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / ".lock").touch()
    with in_folder(tmp_path / "run", configured()):
        pass
    assert (tmp_path / "run" / "experiment.json").exists()
    other = tmp_path / "other" / "checkpoint"
    other.mkdir(parents=True)
    (other / LEDGER_FILE).write_text("{}\n")  # whatever it holds
    with pytest.raises(InputError, match=r"^--directory: must be a new folder, or one in which"):
        run(tmp_path / "other", configured())


def test_what_cannot_be_run_there(configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    at_work = pytest.raises(InputError, match=f"^--directory: another run is at work in {folder}$")
    with in_folder(folder, configured()), at_work:
        run(folder, configured())
    before = (folder / "experiment.json").read_bytes()
    other = configured(class_args={"num_blocks": 3})
    with pytest.raises(InputError, match=r"which differs in tuner.classArgs.num_blocks; choose"):
        run(folder, other)
    assert (folder / "experiment.json").read_bytes() == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"^--directory: must be a new folder, or one in which"):
        run(foreign, configured())
    assert os.listdir(foreign) == ["thesis.tex"]
    remote = configured(trainingService={"platform": "remote"})
    with pytest.raises(InputError, match=r"^trainingService.platform: must be local without NNI"):
        run(tmp_path / "new", remote)
    with pytest.raises(InputError, match=r"^maxTrialDuration: must be left out without NNI"):
        run(tmp_path / "new", configured(maxTrialDuration="1h"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["checkpoint", "results/table.json", ".lock"])
def test_links_in_its_folder_lead_nowhere(
    name: str, configured: Configured, tmp_path: Path
) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (folder / name).parent.mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(configured()))
    (folder / name).symlink_to(outside)
    with pytest.raises(InputError, match=rf"^{folder / name}: must not be a link"):
        run(folder, configured())
    assert os.listdir(outside) == []


@pytest.mark.parametrize("text", ["[1]", "null", "{", '"soon"'])
def test_damaged_notes_are_named(text: str, configured: Configured, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "experiment.json").write_text(json.dumps(configured()))
    (folder / "checkpoint" / "seconds.json").write_text(text)
    with pytest.raises(InputError, match=r"seconds.json: .*; remove it to count from now on$"):
        run(folder, configured())


def test_settings_that_make_no_sense(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^num_blocks: must be from 1 to"):
        run(tmp_path / "run", configured(class_args={"num_blocks": 99}))


def test_a_damaged_ledger_is_named_and_nothing_else_changes(
    configured: Configured, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(folder, configured(maxTrialNumber=1))
    (folder / "checkpoint" / LEDGER_FILE).write_text("[]")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"{LEDGER_FILE}: Input should be a valid dictionary"):
        run(folder, configured(maxTrialNumber=9))
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_study_that_does_not_know_what_the_ledger_knows(
    configured: Configured, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    space = {"lr": {"_type": "loguniform", "_value": [0.01, 0.1]}}
    config = configured(class_args={"trials_per_strategy": 1}, searchSpace=space)
    assert run(folder, config) == Outcome(0)
    study, again = folder / "checkpoint" / STUDY_FILE, "; start the experiment anew$"
    study.write_bytes(study.read_bytes()[:5000])
    with pytest.raises(InputError, match=rf"{STUDY_FILE}: cannot be read .*{again}"):
        run(folder, config)
    study.unlink()
    lacks = rf"^study \w+: must have trial 0, as the ledger has{again}"
    with pytest.raises(InputError, match=lacks):
        run(folder, config)
    with pytest.raises(InputError, match=r"^searchSpace: must be empty to go on by a ledger alone"):
        restore(tmp_path / "other", config, folder / "checkpoint" / LEDGER_FILE)


def test_a_ledger_is_enough_where_nothing_is_drawn(configured: Configured, tmp_path: Path) -> None:
    before, config = tmp_path / "run", configured(class_args={"trials_per_strategy": 1})
    assert config["searchSpace"] == {}
    assert run(before, config) == Outcome(0)
    ledger = before / "checkpoint" / LEDGER_FILE
    again = tmp_path / "again"
    restore(again, config, ledger)
    assert run(again, config) == Outcome(0)
    assert (again / "checkpoint" / LEDGER_FILE).read_text() == ledger.read_text()
    with pytest.raises(InputError, match=r"^folder: must be a new one"):
        restore(again, config, ledger)
