"""Real NNI managers, in a home of their own, with trials that make their results up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

ROOT = Path(__file__).parents[2]
FAKE_TRIAL = ROOT / "tests" / "e2e" / "fake_trial.py"


class World:
    """A user's home, in which experiments are started as the user would."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.log = home / "fake-trials.log"

    def experiment(self, **changes: Any) -> Path:
        """Write an experiment; ``class_args`` and other keys replace the usual ones."""
        class_args = {
            "task": {"backbone": "vgg11"},
            "num_blocks": 2,
            "compare": ["uniform"],
            "trials_per_strategy": 1,
            **changes.pop("class_args", {}),
        }
        tuner = changes.pop("tuner_class", "SedonaTuner")
        config = {
            "experimentName": "test",
            "trialCommand": f"python {FAKE_TRIAL}",
            "trialCodeDirectory": ".",
            "trialConcurrency": 1,
            "trainingService": {"platform": "local"},
            "searchSpace": {"lr": {"_type": "loguniform", "_value": [0.01, 0.2]}},
            "tuner": {
                "className": f"sedona_nni.strategies.tuner.{tuner}",
                "codeDirectory": ".",
                "classArgs": class_args,
            },
            **changes,
        }
        path = self.home / "experiment.yml"
        path.write_text(yaml.safe_dump(config))
        return path

    def trials(self, **behaviour: Any) -> None:
        """Say what the trials will do, see fake_trial.py."""
        self.environment["FAKE_TRIAL"] = json.dumps(behaviour)

    def started_trials(self) -> list[dict[str, str]]:
        """Return key and NNI's id of each start of a trial."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def command(self, module: str, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", module, *map(str, arguments)]

    def sedona(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start ``sedona-nni``."""
        return subprocess.Popen(
            self.command("sedona_nni.command_line", *arguments),
            env=self.environment,
            cwd=self.home,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def nnictl(self, *arguments: str | Path) -> str:
        """Run ``nnictl`` and return what it prints."""
        return subprocess.run(
            self.command("nni.tools.nnictl.nnictl", *arguments),
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout

    def processes(self) -> list[psutil.Process]:
        """Return the processes that run in this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                pass
        return found


@contextlib.contextmanager
def new_world(home: Path) -> Iterator[World]:
    """Make a world; what is still running in it at the end is killed."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "NNI_CONFIG_DIR": str(home / "nni-config"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "FAKE_TRIAL_LOG": str(home / "fake-trials.log"),
        "COLUMNS": "200",
    }
    world = World(home, environment)
    try:
        yield world
    finally:
        for process in world.processes():
            process.kill()


def unused_port() -> int:
    """Return a port that nobody uses, as little as the next one, which NNI may take as well.

    Not one of those that the system gives to whoever connects to something: others may have it
    by the time that a manager starts.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("", port))
            second.bind(("", port + 1))
            return port


def wait_for(
    condition: Callable[[], Any],
    seconds: float = 90,
    process: subprocess.Popen[str] | None = None,
) -> Any:
    """Return the first true value of ``condition``, unless ``process`` ends before."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return value


def get(port: int, path: str) -> Any:
    return requests.get(f"http://127.0.0.1:{port}/api/v1/nni/{path}", timeout=20).json()


def status(port: int) -> str:
    try:
        return str(get(port, "check-status")["status"])
    except requests.RequestException:
        return "no answer"
