"""How long a training in parallel takes from its command to its first step, beside one process."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from benchmarks.view import Table
from sedona_nni.errors import SedonaError

__all__ = ["first_steps", "rank_table"]

_IMAGES = 64  # and so one step in an epoch
_EXPERIMENT = {
    "experimentName": "start",
    "trialCommand": "sedona-nni-trial",
    "trialCodeDirectory": ".",
    "trialConcurrency": 1,
    "trainingService": {"platform": "local"},
    "searchSpace": {},
    "tuner": {
        "className": "sedona_nni.strategies.tuner.OptunaTuner",
        "codeDirectory": ".",
        "classArgs": {
            "task": {"backbone": "vgg11", "dataset": "digits", "train_limit": _IMAGES},
            "decoupling": "backprop",
            "train": {"epochs": 1, "batch_size": _IMAGES},
            "device": "cpu",
        },
    },
}


def first_steps(num_blocks: Sequence[int], repeats: int) -> dict[str, Any]:
    """Start trainings of a small VGG-11 in turn, after a first, uncounted turn.

    A training has one epoch of one step, with a validation on few images; the clock stops when it
    tells of that epoch. In one process the network is cut as in the smallest number of blocks.

    Args:
        num_blocks: K, each of which is started in K processes.
        repeats: Turns that count.

    Returns:
        Under ``one process`` and ``K processes``: ``values_s``, ``median_s`` and, of processes,
        ``ratio`` of the medians to one process.
    """
    sides = {"one process": (min(num_blocks), False)}
    sides |= {f"{count} processes": (count, True) for count in num_blocks}
    values: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, repeats):
        for name, (count, parallel) in sides.items():
            seconds = _first_step(count, parallel=parallel)
            if turn >= 0:
                values[name].append(seconds)
    found: dict[str, Any] = {
        name: {"median_s": statistics.median(times), "values_s": times}
        for name, times in values.items()
    }
    for side in found.values():
        side["ratio"] = side["median_s"] / found["one process"]["median_s"]
    return found


def _first_step(num_blocks: int, *, parallel: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder, "experiment.yml")
        experiment.write_text(json.dumps(_EXPERIMENT))  # JSON is YAML
        command = [sys.executable, "-m", "sedona_nni.command_line", "train", str(experiment)]
        command += ["--decoupling", f"uniform:{num_blocks}:conv1", "--directory", f"{folder}/out"]
        command += ["--parallel", "blocks" if parallel else "no"]
        begin = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if re.match("epoch 1 of 1", line):
                    took = time.perf_counter() - begin
        if process.returncode != 0:
            raise SedonaError(f"the training did not start: {''.join(said).strip()}")
    return took


def rank_table(measured: dict[str, Any]) -> Table:
    """Return what `first_steps` returned for readers."""
    rows = [
        [
            name,
            f"{side['median_s']:.2f}",
            f"{min(side['values_s']):.2f}",
            f"{max(side['values_s']):.2f}",
            f"{side['ratio']:.2f}",
        ]
        for name, side in measured.items()
    ]
    headings = ["", "median", "from", "to", "ratio"]
    return Table("from the command to the end of the first epoch of one step, s", headings, rows)
