"""How long it takes until something happens: imports, and a trial up to its first training step."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from benchmarks.view import Table
from sedona_nni.errors import SedonaError

__all__ = [
    "STAGES",
    "import_table",
    "import_time",
    "import_times",
    "search_experiment",
    "trial_start_ups",
    "trial_table",
    "unused_port",
]

MODULES = (
    "sedona_nni.command_line",
    "sedona_nni.searches.sedona.search",
    "sedona_nni.training.loop",
    "sedona_nni.strategies.tuner",
    "sedona_nni.trials.__main__",
    "sedona_nni.trials.train",
    "sedona_nni.trials.search",
)
STAGES = {
    "python": "Python starts",
    "imports": "imports: torch, the trial",
    "parameters": "parameters from NNI, device",
    "search imports": "imports: the search",
    "data": "data",
    "network": "network and search",
    "first step": "first training step",
}


def import_times(repeats: int) -> dict[str, Any]:
    """Time imports, each in a new process; a first, uncounted turn fills the disk cache.

    Returns:
        ``torch``, and under each module's name what importing it takes when torch already has
        been: ``median_s`` and ``values_s``.
    """
    names = ("torch", *MODULES)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, repeats):
        for name in names:
            seconds = import_time(name)
            if turn >= 0:
                values[name].append(seconds)
    return {
        name: {"median_s": statistics.median(times), "values_s": times}
        for name, times in values.items()
    }


def import_time(name: str) -> float:
    """Return the seconds of one import in a new process."""
    before = "" if name == "torch" else "import torch"
    code = f"import time; {before}\nstart = time.perf_counter()\nimport {name}\n"
    code += "print(time.perf_counter() - start)"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return float(printed.split()[-1])


def import_table(measured: dict[str, Any]) -> Table:
    """Return what `import_times` returned for readers."""
    rows = [
        [name, *(f"{time:.2f}" for time in (side["median_s"], *_range(side["values_s"])))]
        for name, side in measured.items()
    ]
    return Table("imports; below torch: beyond it, s", ["module", "median", "from", "to"], rows)


def trial_start_ups(repeats: int, *, backbone: str, batch_size: int) -> list[dict[str, float]]:
    """Run an experiment under NNI as a user would, each time up to its end, and watch its search.

    Its data set is the digits of scikit-learn, its search one step long, and its home a temporary
    folder; but the kernels in C are those of this user, which were compiled once, by any search.

    Returns:
        For each run, seconds from the start of `sedona-nni run` to that of the trial's process
        (``manager``), and then of each stage up to the first training step.
    """
    return [_trial_start_up(backbone, batch_size) for _ in range(repeats)]


def _trial_start_up(backbone: str, batch_size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        experiment = home / "experiment.yml"
        experiment.write_text(json.dumps(search_experiment(backbone, batch_size)))  # JSON is YAML
        environment = {
            **os.environ,
            "HOME": folder,
            "NNI_CONFIG_DIR": str(home / "nni-config"),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        command = [sys.executable, "-m", "sedona_nni.command_line", "run", str(experiment)]
        options = ["--port", str(unused_port()), "--results", str(home / "results")]
        begin = time.clock_gettime(time.CLOCK_BOOTTIME)
        done = subprocess.run(
            [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        found = list(home.glob("nni-experiments/*/environments/*/trials/*/start-up.json"))
        if not found:
            raise SedonaError(f"the experiment did not start: {done.stderr.strip()}")
        reached: dict[str, float] = json.loads(found[0].read_text())
    stages = {"manager": reached["process"] - begin}
    for (_, earlier), (stage, later) in pairwise(reached.items()):
        stages[stage] = later - earlier
    return stages


def search_experiment(backbone: str, batch_size: int) -> dict[str, Any]:
    """Return an experiment whose search does one step of each kind."""
    return {
        "experimentName": "start-up",
        "trialCommand": "python -m benchmarks.timed_trial",
        "trialCodeDirectory": str(ROOT),
        "trialConcurrency": 1,
        "trainingService": {"platform": "local"},
        "searchSpace": {"lr": {"_type": "choice", "_value": [0.1]}},
        "tuner": {
            "className": "sedona_nni.strategies.tuner.SedonaTuner",
            "codeDirectory": str(ROOT),
            "classArgs": {
                "task": {"backbone": backbone, "dataset": "digits"},
                "num_blocks": 2,
                "search": {
                    "pretrain_steps": 1,
                    "meta_steps": 1,
                    "inner_steps": 1,
                    "batch_size": batch_size,
                    "validation_batch_size": batch_size,
                },
                "train": {"epochs": 1},
                "compare": [],
                "trials_per_strategy": 1,
                "device": "cpu",
            },
        },
    }


def unused_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trial_table(measured: Sequence[dict[str, float]], backbone: str) -> Table:
    """Return what `trial_start_ups` returned for readers."""
    rows = [_row("until NNI starts the trial", [run["manager"] for run in measured])]
    rows += [_row(text, [run[stage] for run in measured]) for stage, text in STAGES.items()]
    totals = [sum(run[stage] for stage in STAGES) for run in measured]
    rows.append(_row("trial's start to its first training step", totals))
    return Table(f"search trial on {backbone}, s", ["stage", "median", "from", "to"], rows)


def _row(text: str, values: list[float]) -> list[str]:
    return [text, *(f"{value:.2f}" for value in (statistics.median(values), *_range(values)))]


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)
