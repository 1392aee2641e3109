"""`sedona_nni.strategies.nni_border.nnictl` and `rest`: who answers at a port, and by which way."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nni_node
import psutil
import pytest
from nni.experiment import rest as nni_rest
from nni_world import unused_port

from sedona_nni.errors import InputError
from sedona_nni.strategies.nni_border import launcher, nnictl, trial
from sedona_nni.strategies.nni_border.rest import ManagerApi, ManagerGoneError, proxy_exceptions
from sedona_nni.strategies.run_mark import RUN_MARK


class Manager(http.server.BaseHTTPRequestHandler):
    """Has the experiment ``theirs`` and does whatever it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path.removeprefix('/api/v1/nni/')}")
        params = {"trialConcurrency": 1, "experimentWorkingDirectory": "/nowhere"}
        body = json.dumps({"id": "theirs", "params": params}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of another experiment's manager."""
    monkeypatch.setattr(Manager, "asked", [], raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Manager) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_another_experiments_manager_is_not_believed_and_not_told_anything(port: int) -> None:
    api = ManagerApi(f"http://127.0.0.1:{port}", "ours")
    for call in (lambda: api.get("check-status"), api.end_experiment, api.lift_limits):
        with pytest.raises(ManagerGoneError, match="has theirs, not ours"):
            call()
    assert set(Manager.asked) == {"GET experiment"}
    ManagerApi(f"http://127.0.0.1:{port}", "theirs").get("check-status")
    assert Manager.asked[-1] == "GET check-status"


def test_a_trial_whose_manager_was_replaced_ends(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNI_PLATFORM", "local")
    monkeypatch.setenv("NNI_EXP_ID", "ours")
    address = f"http://localhost:{port}/env/local-env/abc"
    monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", address)
    with pytest.raises(ManagerGoneError, match="`sedona-nni resume ours` goes on"):
        trial.report_intermediate({"default": 0.5})
    assert Manager.asked == ["GET experiment"]


def test_a_trial_that_is_there_to_say_why_there_is_none_fails_with_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NNI_TRIAL_JOB_ID", "abc")
    monkeypatch.setenv("NNI_PLATFORM", "frameworkcontroller")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    sent = {"key": "error", "error": "device: is 'cuda', but there is none"}
    monkeypatch.setattr("nni.get_next_parameter", lambda: sent)
    with pytest.raises(InputError, match=r"^device: is 'cuda', but there is none$"):
        trial.trial_parameters()


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What NNI runs on another machine; it has parameters at the second time of asking."""
    told: list[Any] = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) > 1 else 408)
            self.end_headers()
            record = {"parameter_id": 7, "parameters": {"key": "ours"}}
            if len(asked) > 1:
                answer = {"type": "parameter", "parameter": json.dumps(record)}
                self.wfile.write(json.dumps(answer).encode())

        def do_PUT(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(told) < 3 else 410)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    asked: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}/env/remote-worker1/abc"
        monkeypatch.setenv("NNI_PLATFORM", "remote")
        monkeypatch.setenv("NNI_TRIAL_JOB_ID", "abc")
        monkeypatch.setenv("NNI_EXP_ID", "ours")
        monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", address)
        yield told
        server.shutdown()


def test_a_trial_on_another_machine_asks_there_and_ends_when_that_has_gone(
    keeper: list[Any],
) -> None:
    code = """
from sedona_nni.strategies.nni_border import trial
print(trial.trial_parameters())
trial.report_final({"key": "ours", "default": 0.5, "cuts": [1]}, ["default"])
trial.report_intermediate({"default": 0.5})
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "{'key': 'ours'}\n"
    request, report, _ = keeper
    assert request == {"type": "request_parameter"}
    metric = json.loads(report["metric"])
    assert (metric["parameter_id"], metric["type"]) == (7, "FINAL")
    value = {"default": 0.5, "key": "ours", "details": {"cuts": [1]}}
    assert json.loads(metric["value"]) == value
    assert done.stderr.endswith("any more; `sedona-nni resume ours` goes on\n")


def test_nnictl_waits_for_its_own_manager_and_not_for_whoever_answers(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(RuntimeError, match=f"Port {port} is not idle"):
        nnictl.wait_for_manager(ended, port)
    assert Manager.asked == []

    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None
        own = int(listening.stdout.readline())
        asked: list[int] = []
        monkeypatch.setattr(nni_rest, "get", lambda port, *_: asked.append(port))
        nnictl.wait_for_manager(listening, own)
        assert asked == [own]
        listening.kill()


def test_nnictl_says_when_a_manager_does_not_start() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        port = idle.getsockname()[1]
    with pytest.raises(RuntimeError, match="has not started to listen"):
        nnictl.wait_for_manager(ended, port)


def test_a_manager_is_patient_with_a_tuner_on_a_busy_machine() -> None:
    node = Path(nni_node.__path__[0], "node")
    hook = Path(launcher.__file__).with_name("patience.js")
    code = """
        const waits = [9999, 10000].map(delay => setTimeout(() => {}, delay));
        console.log(waits.map(each => each._idleTimeout).join());
        waits.forEach(clearTimeout);
        require("util").promisify(setTimeout)(1, "also so").then(console.log);
    """
    shown = subprocess.run([node, "--require", hook, "-e", code], capture_output=True, text=True)
    assert shown.stdout.split("\n") == ["9999,120000", "also so", ""]


def test_a_manager_does_not_outlive_whoever_has_started_it() -> None:
    """It is a daemon, and so nobody's child."""
    node = Path(nni_node.__path__[0], "node")
    hook = Path(launcher.__file__).with_name("orphan.js")
    code = "setInterval(() => {}, 1000); console.log(); process.on('SIGINT', () => process.exit(7))"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as starter:
        manager = subprocess.Popen(
            [node, "--require", hook, "-e", code],
            env={**os.environ, RUN_MARK: f"{starter.pid}-abc"},
            stdout=subprocess.PIPE,
        )
        with manager:
            assert manager.stdout is not None
            try:
                manager.stdout.readline()
                with pytest.raises(subprocess.TimeoutExpired):
                    manager.wait(3)
                starter.kill()
                starter.wait()
                assert manager.wait(30) == 7
            finally:
                manager.kill()
                starter.kill()


def test_a_manager_closes_the_files_of_trials(tmp_path: Path) -> None:
    node = Path(nni_node.__path__[0], "node")
    hook = Path(launcher.__file__).with_name("files.js")
    code = """
        const { once } = require("events");
        const fs = require("fs");
        const { spawn } = require("child_process");
        const count = () => fs.readdirSync("/proc/self/fd").length;
        (async () => {
            const before = count();
            for (const name of ["one", "two"]) {  // as the manager does
                const files = [1, 2].map(number => fs.createWriteStream(name + number));
                await Promise.all(files.map(file => once(file, "open")));
                const stdio = ["ignore", ...files];
                const trial = spawn("echo out; sleep 0.2; echo err >&2", { stdio, shell: true });
                await once(trial, "close");
            }
            console.log(count() - before);
        })();
    """
    command = [node, "--require", hook, "-e", code]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (shown.stdout, shown.stderr) == ("0\n", "")
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said == {"one1": "out\n", "one2": "err\n", "two1": "out\n", "two2": "err\n"}


def test_a_process_that_has_got_the_number_of_a_manager_is_not_one() -> None:
    assert not launcher.is_manager(os.getpid(), "ours")
    assert launcher.experiment_of_manager(["node", "main.js", "--experiment-id", "ours"]) == "ours"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not psutil.pid_exists(ended.pid)
    assert not launcher.is_manager(ended.pid, "ours")


@pytest.mark.slow(reason="waits for a process that is slow to end")
def test_an_interrupt_while_a_run_ends_by_itself_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Manager, "asked", [], raising=False)
    code = "process.on('SIGINT', () => {}); console.log(); setTimeout(() => {}, 4000)"
    node = [Path(nni_node.__path__[0], "node"), "-e", code, "--", "--experiment-id", "theirs"]
    managers: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], env: dict[str, str], **_: Any) -> Any:
        manager = stack.enter_context(subprocess.Popen(node, env=env, stdout=subprocess.PIPE))
        assert manager.stdout is not None
        manager.stdout.readline()  # from now on it minds no interrupt
        managers.append(manager)
        address = "127.0.0.1", int(command[-1])
        server = stack.enter_context(http.server.ThreadingHTTPServer(address, Manager))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(launcher.subprocess, "run", start)
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

    ended: list[int | None] = []

    def run() -> None:
        try:
            with launcher.running([], port=unused_port(), public=False):
                interrupt.start()
        finally:
            ended.extend(manager.poll() for manager in managers)

    with (
        contextlib.ExitStack() as stack,
        launcher.one_interrupt(),
        pytest.raises(launcher.Interrupted),
    ):
        run()
    assert ended == [0]  # it was waited for


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, "localhost,127.0.0.1"),
        ({"NO_PROXY": "corp, 127.0.0.1"}, "corp,127.0.0.1,localhost"),
        ({"NO_PROXY": "one", "no_proxy": "two"}, "two,one,localhost,127.0.0.1"),
    ],
)
def test_both_spellings_of_the_exceptions_keep_what_either_names(
    given: dict[str, str], hosts: str
) -> None:
    assert proxy_exceptions(given) == {"no_proxy": hosts, "NO_PROXY": hosts}
