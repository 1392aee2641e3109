"""`sedona_nni.trials.__main__`: how the process of a trial ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from shell import QUICKSTART

from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.reporting.trial import TrainTrial
from sedona_nni.strategies.process_trial import HOST, OUTPUT, PARAMETERS_FILE
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.run import alone_in

pytestmark = pytest.mark.slow(reason="a process that imports PyTorch")


def started(folder: Path, host: int, **changes: Any) -> subprocess.Popen[str]:
    """Start a training as a trial of a process."""
    small = {"width_multiplier": 0.0625, "image_size": 8, "train_limit": 100}
    task = Task.model_validate({"backbone": "dgl-cnn4", **small, **changes})
    trial = TrainTrial(
        key="halves-000",
        strategy="halves",
        task=task,
        decoupling=decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4),
        train=TrainSettings(epochs=1000, batch_size=20).model_dump(mode="json"),
        hyperparameters={},
    )
    document = trial.model_dump(mode="json", exclude_none=True)
    (folder / PARAMETERS_FILE).write_text(json.dumps(document))
    return subprocess.Popen(
        [sys.executable, "-m", "sedona_nni.trials"],
        env={**os.environ, HOST: f"{host}", OUTPUT: str(folder), "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_ends_with_its_host_between_reports_as_well(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as host:
        trial = started(tmp_path, host.pid, width_multiplier=2, image_size=64, train_limit=None)
        while not (tmp_path / "decoupling.json").exists():
            assert trial.poll() is None
            time.sleep(0.05)
        host.kill()
        host.wait()
        try:
            _, said = trial.communicate(timeout=60)
        finally:
            trial.kill()
    assert (trial.returncode, said) == (130, "sedona-nni: interrupted\n")
    assert not (tmp_path / "reports.jsonl").exists()


def test_what_the_machine_is_to_blame_for_ends_it_as_if_it_was_killed(tmp_path: Path) -> None:
    """So that its host starts it again."""
    with started(tmp_path, os.getpid()) as trial:
        psutil.Process(trial.pid).rlimit(psutil.RLIMIT_FSIZE, (5000, 5000))
        _, said = trial.communicate(timeout=120)
    assert said.splitlines()[-1].startswith(f"sedona-nni: {tmp_path}/checkpoint.pt: cannot be w")
    assert trial.returncode == -signal.SIGKILL


def test_two_in_one_directory(tmp_path: Path) -> None:
    made = tmp_path / "made"
    words = [sys.executable, "-m", "sedona_nni.command_line", "train", QUICKSTART]
    words += ["--directory", str(made), "--decoupling", "uniform:2:conv1", "--device", "cpu"]
    with alone_in(made):
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line == f"sedona-nni: --directory: another run is at work in {made}"
    assert os.listdir(made) == [".lock"]
