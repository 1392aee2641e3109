"""A long life: hundreds of short trials, with NNI's manager and without; and thousands, kept.

What must not grow with the number of trials that have ended: the memory and the files of whoever
runs them, and the time from the end of a trial to the next one's start.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import psutil

from benchmarks.brief_trial import BRIEF_FILE, SECONDS
from benchmarks.record import ROOT
from benchmarks.start_up import unused_port
from benchmarks.view import Table
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import SedonaError
from sedona_nni.files import write_json
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import TrainTrial, TrainTrialResult
from sedona_nni.strategies.checkpoint import LEDGER_FILE
from sedona_nni.strategies.hyperparameters import Study, study_url
from sedona_nni.task import Task

__all__ = ["SIDES", "long_run", "opening", "opening_table", "reporting", "run_tables"]

SIDES = {"nni": "under NNI", "directory": "without its manager"}
_CONCURRENCY = 2
_SAMPLE_S = 2.0
_MARK = "SEDONA_NNI_ENDURANCE"
_SPACE = {
    "lr": {"_type": "loguniform", "_value": [0.001, 1]},
    "weight_decay": {"_type": "loguniform", "_value": [0.00001, 0.01]},
}
_DRAWN: dict[str, optuna.distributions.BaseDistribution] = {
    "lr": optuna.distributions.FloatDistribution(0.001, 1, log=True),
    "weight_decay": optuna.distributions.FloatDistribution(0.00001, 0.01, log=True),
}
_STRATEGIES = ("sedona", "uniform", "random", "backprop")
_ASKED = 5


def long_run(side: str, trials: int, seconds: float) -> dict[str, Any]:
    """Run an experiment of short trials, two at a time, and look at its processes meanwhile.

    Args:
        side: One of `SIDES`.
        trials: How many.
        seconds: How long each sleeps.

    Returns:
        ``samples``, about every 2 s, each with ``ended``, the number of trials that have, and of
        ``command``, ``manager`` and ``tuner``, as far as there are, ``[MiB, open files]``;
        ``answers_s``, from the end of each trial to the start of the process of the next in its
        place; ``took_s``.

    Raises:
        SedonaError: if the experiment fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        mark = uuid.uuid4().hex
        experiment = home / "experiment.yml"
        write_json(experiment, _experiment(trials))  # JSON is YAML
        command = [sys.executable, "-m", "sedona_nni.command_line", "run", str(experiment)]
        if side == "directory":
            command += ["--directory", str(home / "run")]
        else:
            command += ["--port", str(unused_port()), "--results", str(home / "results")]
        environment = {
            **os.environ,
            "HOME": folder,
            "NNI_CONFIG_DIR": str(home / "nni-config"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            SECONDS: str(seconds),
            _MARK: mark,
        }
        began = time.perf_counter()
        with (home / "said").open("w+") as said:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
            )
            samples = list(_samples(process, mark, home))
            said.seek(0)
            if process.returncode:
                raise SedonaError(f"the experiment failed: {said.read()[-2000:]}")
        took = time.perf_counter() - began
        briefs = [json.loads(path.read_text()) for path in home.rglob(BRIEF_FILE)]
    return {"samples": samples, "answers_s": _answers(briefs), "took_s": took}


def _experiment(trials: int) -> dict[str, Any]:
    return {
        "experimentName": "endurance",
        "trialCommand": "python -m benchmarks.brief_trial",
        "trialCodeDirectory": str(ROOT),
        "trialConcurrency": _CONCURRENCY,
        "trainingService": {"platform": "local"},
        "searchSpace": _SPACE,
        "tuner": {
            "className": "sedona_nni.strategies.tuner.OptunaTuner",
            "codeDirectory": str(ROOT),
            "classArgs": {
                "task": {"backbone": "vgg11", "dataset": "digits"},
                "decoupling": "uniform:2:conv1",
                "trials_per_strategy": trials,
                "device": "cpu",
            },
        },
    }


def _samples(process: subprocess.Popen[bytes], mark: str, home: Path) -> Iterator[dict[str, Any]]:
    ledger: Ledger | None = None
    while process.poll() is None:
        time.sleep(_SAMPLE_S)
        if ledger is None and (found := [*home.rglob(LEDGER_FILE)]):
            ledger = Ledger(found[0])
        if ledger is not None:
            ledger.refresh()
            ended = sum(record.status != "running" for record in ledger)
            yield {"ended": ended, **_processes(process.pid, mark)}


def _processes(command: int, mark: str) -> dict[str, list[float]]:
    """Return memory in MiB and the number of open files of those who run the trials."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == mark and (role := _role(process, command)):
                found[role] = [process.memory_info().rss / 2**20, process.num_fds()]
    return found


def _role(process: psutil.Process, command: int) -> str | None:
    if process.pid == command:
        return "command"
    if process.name() == "node":
        return "manager"
    return "tuner" if "--exp_params" in process.cmdline() else None


def _answers(briefs: Sequence[Mapping[str, float]]) -> list[float]:
    """Return how long each trial's place was free before it began, in their order."""
    began = sorted(each["began"] for each in briefs)
    ended = sorted(each["ended"] for each in briefs)
    return [start - end for start, end in zip(began[_CONCURRENCY:], ended, strict=False)]


def run_tables(measured: Mapping[str, dict[str, Any]]) -> list[Table]:
    """Return what `long_run` returned for each side, for readers."""
    rows, answers = [], []
    for side, run in measured.items():
        few, many = (_typical(run["samples"], part) for part in (0, 1))
        for role in ("command", "manager", "tuner"):
            if role in many:
                values = [f"{each[role][0]:.0f}" for each in (few, many)]
                files = [f"{each[role][1]:.0f}" for each in (few, many)]
                rows.append([f"{SIDES[side]}: {role}", *values, *files])
        free = run["answers_s"]
        some = min(50, len(free) // 2)
        parts = (free[:some], free[-some:])
        answers.append([SIDES[side], *(f"{median(part):.2f}" for part in parts)])
        answers[-1] += [f"{max(free):.2f}", f"{run['took_s'] / 60:.1f}"]
    headings = ["process", "MiB, early", "MiB, late", "files, early", "files, late"]
    return [
        Table("memory and open files, medians of the first and the last fifth", headings, rows),
        Table(
            "from a trial's end to the next one's process, s; all, min",
            ["", "first 50", "last 50", "longest", "all"],
            answers,
        ),
    ]


def _typical(samples: Sequence[Mapping[str, Any]], part: int) -> dict[str, tuple[float, float]]:
    """Return medians of the first fifth of the samples, or of the last, while trials ended."""
    busy = [each for each in samples if each["ended"] > 0]
    fifth = max(1, len(busy) // 5)
    chosen = busy[-fifth:] if part else busy[:fifth]
    return {
        role: (
            median(each[role][0] for each in chosen if role in each),
            median(each[role][1] for each in chosen if role in each),
        )
        for role in ("command", "manager", "tuner")
        if any(role in each for each in chosen)
    }


def opening(trials: int) -> dict[str, float]:
    """Time what is done with the ledger and the study of an experiment of many trials.

    Returns:
        Seconds: ``ledger``, to open it, and ``change``, to enter a trial and its result; ``study``,
        to open it; ``ask`` and ``tell``, the median of a few of TPE's draws and of their results.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, LEDGER_FILE)
        ledger = synthetic_ledger(path, trials)
        last = f"{_STRATEGIES[0]}-{trials:05d}"

        def change() -> None:
            ledger.start(_trial(last, 0.1, 0))
            ledger.succeed(last, _result(random.Random(0)))

        changed = median(_seconds(change) for _ in range(20))
        opened = _seconds(lambda: Ledger(path))
        file = Path(folder, "study.db")
        _fill(file, trials)
        studies: list[Study] = []

        def open_study() -> None:
            storage = optuna.storages.RDBStorage(study_url(file))
            studies.append(Study("given", storage, _DRAWN, "tpe", 0))

        study_opened = _seconds(open_study)
        numbers: list[int] = []
        asked = [_seconds(lambda: numbers.append(studies[0].ask()[0])) for _ in range(_ASKED)]
        told = [_seconds(lambda: studies[0].tell(numbers.pop(), 0.5)) for _ in range(_ASKED)]
    return {
        "ledger": opened,
        "change": changed,
        "study": study_opened,
        "ask": median(asked),
        "tell": median(told),
    }


def opening_table(measured: Mapping[int, Mapping[str, float]]) -> Table:
    """Return what `opening` returned, by the number of trials, for readers."""
    words = {
        "ledger": "open the ledger",
        "change": "enter a trial and its result",
        "study": "open Optuna's study",
        "ask": "draw hyperparameters (TPE)",
        "tell": "tell Optuna a result",
    }
    rows = [
        [text, *(f"{seconds[name]:.3f}" for seconds in measured.values())]
        for name, text in words.items()
    ]
    return Table("s, after so many trials", ["", *(f"{n:,}" for n in measured)], rows)


def reporting(trials: int) -> dict[str, float]:
    """Make the page of an experiment's report.

    Returns:
        ``seconds``, of the whole command, and ``mib``, what the page has.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, LEDGER_FILE)
        page = Path(folder, "report.html")
        synthetic_ledger(path, trials)
        command = [sys.executable, "-m", "sedona_nni.command_line", "report", str(path)]
        seconds = _seconds(
            lambda: subprocess.run(
                [*command, "--html", str(page)], cwd=ROOT, check=True, capture_output=True
            )
        )
        return {"seconds": seconds, "mib": page.stat().st_size / 2**20}


def synthetic_ledger(path: Path, trials: int) -> Ledger:
    """Write the ledger of an experiment of so many trainings of four strategies."""
    drawn = random.Random(2021)
    ledger = Ledger(path)
    for number in range(trials):
        key = f"{_STRATEGIES[number % len(_STRATEGIES)]}-{number:05d}"
        ledger.start(_trial(key, 10 ** drawn.uniform(-3, 0), number))
        ledger.succeed(key, _result(drawn))
    return ledger


def _trial(key: str, lr: float, number: int) -> TrainTrial:
    strategy = key.rpartition("-")[0]
    cut = _STRATEGIES.index(strategy) + 1
    return TrainTrial(
        key=key,
        strategy=strategy,
        task=Task(backbone="vgg11", dataset="digits"),
        decoupling=Decoupling(backbone="vgg11")
        if strategy == "backprop"
        else Decoupling(backbone="vgg11", cuts=[cut], aux=["conv1"]),
        train={"epochs": 30, "batch_size": 64, "seed": number},
        hyperparameters={"lr": lr, "weight_decay": lr / 100},
    )


def _result(drawn: random.Random) -> TrainTrialResult:
    accuracy = drawn.uniform(0.5, 0.9)
    return TrainTrialResult(
        default=accuracy,
        loss=1.0,
        test_accuracy=accuracy - 0.02,
        parameters=100_000,
        peak_memory_mib=drawn.uniform(10, 20),
        ideal_speedup=1.5,
        time_s=drawn.uniform(1, 2),
        images=10_000,
        history={
            "epoch": list(range(1, 31)),
            "default": [accuracy * epoch / 30 for epoch in range(1, 31)],
            "loss": [1 / epoch for epoch in range(1, 31)],
        },
    )


def _fill(file: Path, trials: int) -> None:
    drawn = random.Random(2021)
    storage = optuna.storages.RDBStorage(study_url(file))
    study = optuna.create_study(storage=storage, study_name="given", direction="maximize")
    study.add_trials(
        optuna.trial.create_trial(
            params={"lr": 10 ** drawn.uniform(-3, 0), "weight_decay": 10 ** drawn.uniform(-5, -2)},
            distributions=_DRAWN,
            value=drawn.random(),
        )
        for _ in range(trials)
    )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
