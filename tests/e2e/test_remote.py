"""Trials on other machines, over real SSH: two servers of OpenSSH, each with a home of its own."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nni_node
import pytest
from connections import listening
from nni_world import FAKE_TRIAL, World, wait_for
from ssh_machines import SSHD, Machine, new_key, new_machines

from sedona_nni.strategies.nni_border import launcher

pytestmark = [
    pytest.mark.nni,
    pytest.mark.slow("starts managers, and what NNI runs on machines"),
    pytest.mark.skipif(SSHD is None, reason="needs OpenSSH's server, and there is no sshd"),
]


@pytest.fixture
def machines(world: World, tmp_path: Path) -> Iterator[list[Machine]]:
    known_hosts = world.home / ".ssh" / "known_hosts"
    with new_machines(tmp_path, known_hosts, "127.0.0.2", "127.0.0.3") as machines:
        yield machines


def experiment(world: World, entries: list[dict[str, Any]], **changes: Any) -> Path:
    """Write an experiment with trials that make their results up, beside their code and data."""
    folder = world.home / "code"
    folder.mkdir()
    shutil.copy(FAKE_TRIAL, folder / "trial.py")
    return world.experiment(
        **{
            "trialConcurrency": 2,
            "trialCommand": "python trial.py",
            "trialCodeDirectory": "code",
            "trainingService": {"platform": "remote", "machineList": entries},
            **changes,
        }
    )


def plan(world: World, **behaviour: Any) -> None:
    """Say what the trials will do, see fake_trial.py."""
    (world.home / "code" / "plan.json").write_text(json.dumps(behaviour))


def starts(*machines: Machine) -> list[dict[str, str]]:
    """Return the key and NNI's id of each start of a trial."""
    logs = [machine.log for machine in machines if machine.log.exists()]
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def keys(*machines: Machine) -> list[str]:
    return [start["key"] for start in starts(*machines)]


def test_a_search_and_trainings_stopped_and_resumed(
    world: World, machines: list[Machine], port: int
) -> None:
    """The first asks late, so that NNI by itself would give its parameters to the second."""
    file = experiment(
        world,
        [machine.entry() for machine in machines],
        class_args={"compare": ["uniform", "random"], "trials_per_strategy": 2},
    )
    plan(
        world,
        first_asks_late=True,
        **{"uniform-000": {"fail": True}, "sedona-000": {"seconds": 600}},
    )
    run = world.sedona("run", file, "--port", str(port))
    wait_for(lambda: "sedona-000" in keys(*machines), process=run)

    # nobody else reaches the manager or what NNI runs on the machines
    processes = [*world.processes(), *machines[0].processes(), *machines[1].processes()]
    assert {*listening(processes)} == {"127.0.0.1"}
    ways = set[Path]().union(*(machine.ways_back() for machine in machines))
    assert [stat.S_IMODE(way.stat().st_mode) for way in ways] == [0o600, 0o600]

    os.killpg(run.pid, signal.SIGINT)
    _, before_stop = run.communicate(timeout=200)
    assert run.returncode == 130
    assert "uniform-000: failed\nthis trial was told to fail" in before_stop
    experiment_id = re.findall(r"`sedona-nni resume (\w+)` goes on", before_stop)[0]
    assert [each.processes() for each in (world, *machines)] == [[], [], []]
    assert not any(way.exists() for way in ways)

    run = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    rows = {row["strategy"]: row for row in json.loads(out)}
    assert {name: row["num_trials"] for name, row in rows.items()} == {
        "sedona": 2,
        "uniform": 1,
        "random": 2,
    }, err
    assert "uniform-000: failed\nthis trial was told to fail" in err  # also then
    assert {name: row["num_failed"] for name, row in rows.items()} == {
        "sedona": 0,
        "uniform": 1,
        "random": 0,
    }
    assert rows["sedona"]["decoupling"]["cuts"] == [4]
    assert all(map(keys, machines))
    again = Counter(keys(*machines))
    assert set(again) == {"search", *(f"{name}-00{i}" for name in rows for i in range(2))}
    assert again["sedona-000"] == 2
    done = re.findall(r"^([\w-]+): (?:done|failed)", before_stop, re.MULTILINE)
    assert {again[key] for key in done} == {1}
    assert [each.processes() for each in (world, *machines)] == [[], [], []]
    ran = {start["id"]: start["key"] for start in starts(*machines)}
    assert recorded(world, experiment_id) == ran


def recorded(world: World, experiment_id: str) -> dict[str, str]:
    """Return the keys in NNI's records, which the web UI shows, by the trials' ids."""
    path = world.home / "nni-experiments" / experiment_id / "db" / "nni.sqlite"
    database = sqlite3.connect(path)
    rows = "select trialJobId, data from TrialJobEvent where data <> ''"
    found = {trial: json.loads(data)["parameters"]["key"] for trial, data in database.execute(rows)}
    database.close()
    return found


def test_a_machine_that_is_lost_ends_the_run_and_the_other_goes_on(
    world: World, machines: list[Machine], port: int
) -> None:
    file = experiment(
        world,
        [machine.entry() for machine in machines],
        searchSpace={},
        tuner_class="OptunaTuner",
        class_args={
            "num_blocks": [],
            "decoupling": "uniform:2:conv1",
            "compare": [],
            "trials_per_strategy": 3,
        },
    )
    plan(world, **{f"given-00{i}": {"seconds": 600} for i in range(2)})
    run = world.sedona("run", file, "--port", str(port))
    wait_for(lambda: all(map(keys, machines)), process=run)
    lost, left = machines
    lost.die()
    _, err = run.communicate(timeout=200)
    assert run.returncode == 1
    (line,) = re.findall(r"^sedona-nni: .+", err, re.MULTILINE)
    assert f"@{lost.host}:{lost.port}: connection lost (" in line
    experiment_id = re.findall(r"`sedona-nni resume (\w+)` goes on", line)[0]
    assert "failed" not in err
    assert [each.processes() for each in (world, left)] == [[], []]

    plan(world)
    run = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    assert re.search(rf"@{lost.host}:{lost.port}: .*ECONNREFUSED.*; this goes on without it", err)
    (row,) = json.loads(out)
    assert (row["num_trials"], row["num_failed"]) == (3, 0)
    assert set(keys(left)) == {f"given-00{i}" for i in range(3)}
    ids = recorded(world, experiment_id)
    assert sorted(ids.values()) == [f"given-00{i}" for i in range(3)]  # none in two rows


def test_a_machine_that_refuses_the_key_is_one_line(
    world: World, machines: list[Machine], port: int, tmp_path: Path
) -> None:
    one, other = machines
    wrong = tmp_path / "wrong"
    new_key(wrong)
    file = experiment(world, [one.entry(sshKeyFile=str(wrong)), other.entry()])
    run = world.sedona("run", file, "--port", str(port))
    _, err = run.communicate(timeout=200)
    assert run.returncode == 2
    (line,) = re.findall(r"^sedona-nni: (.+)$", err, re.MULTILINE)
    expected = f"machine {getpass.getuser()}@{one.host}:{one.port}: refuses the key {wrong} ("
    assert line.startswith(expected)
    assert [each.processes() for each in (world, *machines)] == [[], [], []]


def test_a_machine_has_to_be_the_one_that_is_known(
    world: World, machines: list[Machine], tmp_path: Path
) -> None:
    """As the manager connects to one."""
    code = """
        require("app-module-path").addPath(process.cwd());
        require("common/globals");
        const { Ssh } = require("./training_service/remote_v3/ssh");
        const ssh = new Ssh("1", JSON.parse(process.argv[1]));
        ssh.connect().then(() => "connected", error => error.message).then(said => {
            console.log(said);
            process.exit();
        });
    """
    folder = Path(nni_node.__path__[0])
    hook = Path(launcher.__file__).with_name("machines.js")
    one = machines[0]

    def answer() -> str:
        command = [folder / "node", "--require", hook, "-e", code, json.dumps(one.entry())]
        done = subprocess.run(
            command, cwd=folder, env=world.environment, text=True, stdout=subprocess.PIPE
        )
        return done.stdout.strip()

    known_hosts = world.home / ".ssh" / "known_hosts"
    known = known_hosts.read_text()
    assert answer() == "connected"
    new_key(tmp_path / "another")
    another = (tmp_path / "another.pub").read_text()
    known_hosts.write_text(f"[{one.host}]:{one.port} {another}")
    assert answer().startswith("does not show the key that known_hosts has for it (")
    known_hosts.write_text(known + known.replace("[", "@revoked ["))
    missing = f"its key is not in {known_hosts}; `ssh -p {one.port} {getpass.getuser()}@{one.host}`"
    assert answer().startswith(missing)
    known_hosts.write_text(known)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known_hosts], check=True)  # as Debian does
    assert one.host not in known_hosts.read_text()
    assert answer() == "connected"


def test_real_trials(world: World, machines: list[Machine], port: int) -> None:
    file = experiment(
        world,
        [machine.entry() for machine in machines],
        trialCommand="sedona-nni-trial",
        searchSpace={},
        class_args={
            "task": {"backbone": "dgl-cnn4", "width_multiplier": 0.125, "train_limit": 200},
            "aux": ["conv1", "mlp"],
            "search": {"pretrain_steps": 2, "meta_steps": 2, "inner_steps": 1, "batch_size": 16},
            "train": {"epochs": 1, "batch_size": 32},
            "compare": ["random"],
            "device": "cpu",
            "threads": 1,
        },
    )
    run = world.sedona("run", file, "--port", str(port), "--json")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    rows = {row["strategy"]: row for row in json.loads(out)}
    assert set(rows) == {"sedona", "random"}
    (results,) = (world.home / "results").iterdir()
    found = json.loads((results / "search-result.json").read_text())
    assert found["aux_choices"] == ["conv1", "mlp"]

    # what was trained is what is said, and stays there
    trained = {}
    for machine in machines:
        assert len(list(machine.home.glob(f"nni-experiments/{results.name}"))) == 1
        for path in machine.home.rglob("model.safetensors"):
            cuts = json.loads(path.with_name("decoupling.json").read_text())["cuts"]
            result = json.loads(path.with_name("results.json").read_text())
            trained[str(cuts)] = result["default"]
    said = {str(row["decoupling"]["cuts"]): row["validation_accuracy"] for row in rows.values()}
    assert trained == said
