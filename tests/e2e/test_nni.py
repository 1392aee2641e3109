"""Experiments under a real NNI manager: ``sedona-nni run`` and plain ``nnictl``."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from connections import listening
from nni_world import World, get, new_world, status, unused_port, wait_for

pytestmark = pytest.mark.nni


def test_run_to_the_end(world: World, port: int) -> None:
    """Two trials at a time, the first asking late, one failing, on an occupied port."""
    experiment = world.experiment(
        trialConcurrency=2, class_args={"compare": ["uniform", "random"], "trials_per_strategy": 2}
    )
    world.trials(**{"first_asks_late": True, "uniform-001": {"fail": True}})
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", port))
        occupant.listen()
        run = world.sedona("run", experiment, "--port", str(port))
        # listening to this machine only
        wait_for(world.log.exists, process=run)
        assert {*listening(world.processes())} == {"127.0.0.1"}
        out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    assert f"port {port} is taken" in err
    experiment_id, address = re.findall(r"experiment (\w+), web UI: (\S+)", err)[0]
    assert address != f"http://127.0.0.1:{port}"
    assert "uniform-001: failed\nthis trial was told to fail" in err
    assert "sedona-000: done, validation accuracy 50.0%" in err

    # the table, and the files
    assert "cut after layer 4 (conv2)" in out
    assert "1 (1 failed)" in out
    results = world.home / "results" / experiment_id
    assert {path.name for path in results.iterdir()} == {
        *("sedona.json", "uniform.json", "random.json", "search-result.json"),
        *("table.md", "table.json", "trials.json"),
    }
    assert json.loads((results / "sedona.json").read_text())["cuts"] == [4]

    # NNI's records, which the web UI shows, agree with what the trials did
    database = sqlite3.connect(world.home / "nni-experiments" / experiment_id / "db" / "nni.sqlite")
    recorded = {
        trial: json.loads(data)["parameters"]["key"]
        for trial, data in database.execute(
            "select trialJobId, data from TrialJobEvent where data is not null"
        )
    }
    database.close()
    assert {started["id"]: started["key"] for started in world.started_trials()} == recorded
    assert len(recorded) == 7
    assert world.processes() == []

    # also when the manager has gone
    report = world.sedona("report", experiment_id, "--json")
    (group,) = json.loads(report.communicate(timeout=60)[0])["groups"]
    assert [row["strategy"] for row in group["strategies"]] == ["sedona", "uniform", "random"]
    (shown,) = group["experiments"]
    assert (shown["name"], shown["state"]) == (experiment_id, "finished")
    assert (shown["succeeded"], shown["failed"], shown["planned"]) == (6, 1, 7)


def test_a_failing_search_ends_with_its_last_words_and_exit_code_1(world: World, port: int) -> None:
    world.trials(search={"fail": True})
    run = world.sedona("run", world.experiment(), "--port", str(port))
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "sedona-nni: the search failed" in err
    assert "this trial was told to fail" in err
    assert world.processes() == []
    assert not (world.home / "results").exists()


def test_two_at_the_same_moment_get_a_manager_each_and_no_proxy_is_asked(
    world: World, port: int
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        world.environment |= {name: "http://127.0.0.1:9", name.upper(): "http://127.0.0.1:9"}
    for name in ("no_proxy", "NO_PROXY"):
        world.environment.pop(name, None)
    runs = {}
    for name in ("one", "two"):
        written = world.experiment(
            searchSpace={},
            tuner={
                "className": "sedona_nni.strategies.tuner.OptunaTuner",
                "codeDirectory": ".",
                "classArgs": {"task": {}, "decoupling": "uniform:2:conv1", "name": name},
            },
        )
        written.rename(world.home / f"{name}.yml")
        runs[name] = world.sedona("run", f"{name}.yml", "--port", str(port), "--json")
    ports = []
    for name, run in runs.items():
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert [row["strategy"] for row in json.loads(out)] == [name]
        ports += re.findall(r"web UI: http://127\.0\.0\.1:(\d+)", err)
    assert len(set(ports)) == 2
    assert world.processes() == []


def test_ctrl_c_leaves_no_process_and_resume_does_not_repeat_finished_work(
    world: World, port: int
) -> None:
    experiment = world.experiment()
    world.trials(**{"sedona-000": {"seconds": 600}})
    run = world.sedona("run", experiment, "--port", str(port))
    wait_for(lambda: world.log.exists() and len(world.started_trials()) == 2, process=run)
    time.sleep(1)
    os.killpg(run.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(run.pid, signal.SIGINT)  # a second one does not stop the cleaning up
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert world.processes() == []
    experiment_id = re.findall(r"`sedona-nni resume (\w+)` goes on", err)[0]

    again = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert [row["num_trials"] for row in json.loads(out)] == [1, 1]
    keys = [started["key"] for started in world.started_trials()]
    assert keys == ["search", "sedona-000", "sedona-000", "uniform-000"]
    assert world.processes() == []


@pytest.fixture
def strange_world(tmp_path: Path) -> Iterator[World]:
    """A home whose name means something else in addresses."""
    home = tmp_path / "a%20b c?d#e"
    home.mkdir()
    with new_world(home) as world:
        yield world


def test_a_hopeless_training_is_stopped_and_the_dashboard_shows_it(
    strange_world: World, port: int
) -> None:
    """Under a real manager, and with Optuna's real dashboard on what it left."""
    world = strange_world
    experiment = world.experiment(
        class_args={
            "num_blocks": [],
            "decoupling": "uniform:2:conv1",
            "compare": [],
            "trials_per_strategy": 3,
            "pruner": {"name": "median", "startup_trials": 1},
        },
        tuner_class="OptunaTuner",
    )
    hopeless = {"accuracies": [0.1], "seconds": 600}
    world.trials(**{"given-000": {"accuracies": [0.4, 0.6]}, "given-001": hopeless})
    run = world.sedona("run", experiment, "--port", str(port))
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    assert "given-001: stopped early after epoch 1 of 182, validation accuracy 10.0%" in err
    assert "2 (1 stopped early)" in out
    assert "failed" not in err
    keys = [started["key"] for started in world.started_trials()]
    assert keys == ["given-000", "given-001", "given-002"]
    assert world.processes() == []

    (command,) = re.findall(r"Optuna's studies: (.+)", err)
    other = unused_port()
    dashboard = subprocess.Popen(
        [
            Path(sys.executable).with_name("optuna-dashboard"),
            *shlex.split(command)[1:],
            *("--host", "127.0.0.1", "--port", str(other)),
        ],
        env=world.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{other}/api/studies"
        (study,) = wait_for(lambda: _answer(address), process=dashboard)["study_summaries"]
        assert study["study_name"] == "given"
        trials = _answer(f"{address}/{study['study_id']}?after=0")["trials"]
    finally:
        dashboard.terminate()
        dashboard.wait()
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned", "Complete"]
    reported = [value["value"] for value in trials[0]["intermediate_values"]]
    assert reported == [0.4, 0.6]
    attributes = {each["key"]: each["value"] for each in trials[1]["user_attrs"]}
    assert set(attributes) == {"strategy", "blocks", "cuts", "auxiliary"}
    assert "3" in attributes["cuts"]
    assert "conv1" in attributes["auxiliary"]


def _answer(address: str) -> Any:
    try:
        return requests.get(address, timeout=20).json()
    except requests.RequestException:
        return None


def test_an_experiment_that_its_limit_has_ended_goes_on_without_it(world: World, port: int) -> None:
    experiment = world.experiment(maxTrialNumber=2)
    run = world.sedona("run", experiment, "--port", str(port), "--json")
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "has ended early, as its maxTrialNumber is 2; it lacks 1 of 1 trainings of uni" in err
    assert [row["num_planned"] for row in json.loads(out)] == [None, 1]
    experiment_id = re.findall(r"`sedona-nni resume (\w+) --unlimited` goes on", err)[0]

    world.experiment(class_args={"trials_per_strategy": 5})  # edited, in vain
    again = world.sedona("resume", experiment_id, "--port", str(port), "--unlimited", "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{experiment} now differs from this experiment (" in err
    assert "tuner.classArgs.trials_per_strategy" in err
    rows = json.loads(out)
    assert [(row["num_trials"], row["num_planned"]) for row in rows] == [(1, None), (1, None)]
    keys = [started["key"] for started in world.started_trials()]
    assert keys == ["search", "sedona-000", "uniform-000"]


def test_plain_nnictl_ends_by_itself_also_when_stopped_in_the_search(
    world: World, port: int
) -> None:
    """The result of a trial that runs again after a resume arrives, and the status becomes DONE."""
    experiment = world.experiment(trialConcurrency=2)
    world.trials(search={"seconds": 600})
    world.nnictl("create", "--config", experiment, "--port", str(port))
    experiment_id = get(port, "experiment")["id"]
    wait_for(lambda: _status_of(port, "uniform-000") == "SUCCEEDED")
    manager = psutil.Process(get(port, "experiment-metadata")["pid"])
    world.nnictl("stop", experiment_id)
    wait_for(lambda: not manager.is_running() or manager.status() == psutil.STATUS_ZOMBIE)

    world.nnictl("resume", experiment_id, "--port", str(port))
    wait_for(lambda: status(port) == "DONE")
    starts = world.started_trials()
    assert sorted(s["key"] for s in starts) == ["search", "search", "sedona-000", "uniform-000"]
    assert len({s["id"] for s in starts if s["key"] == "search"}) == 1  # keeps its folder


def _status_of(port: int, key: str) -> str:
    for job in get(port, "trial-jobs"):
        if json.loads(job["hyperParameters"][0])["parameters"]["key"] == key:
            return str(job["status"])
    return "unknown"


def test_plain_nnictl_shows_in_terminal_and_web_ui_what_the_machine_lacks(
    world: World, port: int
) -> None:
    experiment = world.experiment(class_args={"task": {"dataset": "cifar10", "data_dir": "none"}})
    command = world.command(
        "nni.tools.nnictl.nnictl", "create", "--config", experiment, "--port", str(port)
    )
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(world.home)
        # a shell, as the terminal is closed when its first process ends
        os.execve("/bin/sh", ["sh", "-c", '"$@"; sleep 600', "sh", *command], world.environment)
    shown = ""
    deadline = time.monotonic() + 90
    while "data_dir" not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 10000).decode()
    assert "sedona-nni: data_dir: " in shown
    assert f"web server at port {port} is open to the whole network" in shown
    assert wait_for(lambda: status(port) == "ERROR")
    (job,) = get(port, "trial-jobs")
    assert job["status"] == "FAILED"
    reason = json.loads(job["hyperParameters"][0])["parameters"]["error"]
    assert reason.startswith("data_dir: ")
    os.close(terminal)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_manager_that_dies_is_noticed(world: World, port: int) -> None:
    world.trials(search={"seconds": 600})
    run = world.sedona("run", world.experiment(), "--port", str(port))
    wait_for(world.log.exists, process=run)
    psutil.Process(get(port, "experiment-metadata")["pid"]).kill()
    _, err = run.communicate(timeout=90)
    assert run.returncode == 1
    assert "the NNI manager has ended unexpectedly" in err
    assert world.processes() == []


def test_a_tuner_that_dies_is_noticed_and_nothing_repeated(world: World, port: int) -> None:
    """Also during the last trial, after which NNI takes all to be done."""
    world.trials(**{"sedona-000": {"seconds": 4}})
    experiment = world.experiment(class_args={"compare": []})
    run = world.sedona("run", experiment, "--port", str(port))
    wait_for(lambda: world.log.exists() and len(world.started_trials()) == 2, process=run)
    (tuner,) = (each for each in world.processes() if "--exp_params" in each.cmdline())
    tuner.kill()
    _, err = run.communicate(timeout=90)
    assert run.returncode == 1
    (experiment_id,) = re.findall(
        r"the tuner has ended unexpectedly; `sedona-nni resume (\w+)` goes on", err
    )
    assert world.processes() == []

    again = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert [row["num_trials"] for row in json.loads(out)] == [1]


def test_evolution_under_nni_survives_a_stop(world: World, port: int) -> None:
    experiment = world.experiment(
        searchSpace={},
        tuner={
            "className": "sedona_nni.strategies.bridge.BridgeTuner",
            "codeDirectory": ".",
            "classArgs": {
                "task": {"backbone": "vgg11"},
                "num_blocks": 2,
                "strategy": "regularized_evolution",
                "strategy_args": {"population_size": 2, "sample_size": 1, "mutation_prob": 0.5},
                "max_trials": 3,
            },
        },
    )
    world.trials(**{"regularized_evolution-001": {"seconds": 600}})
    run = world.sedona("run", experiment, "--port", str(port))
    wait_for(lambda: world.log.exists() and len(world.started_trials()) == 2, process=run)
    os.killpg(run.pid, signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 143
    experiment_id = re.findall(r"`sedona-nni resume (\w+)` goes on", err)[0]

    again = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    (row,) = json.loads(out)
    assert (row["strategy"], row["num_trials"]) == ("regularized_evolution", 3)
    numbers = [started["key"][-1] for started in world.started_trials()]
    assert numbers == ["0", "1", "1", "2"]
    assert world.processes() == []
