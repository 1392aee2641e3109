"""How many processes read images: asked for once, and heeded by whatever reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni import command_line
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.trial import AnyTrial, SearchTrial, TrainTrial, read_trial
from sedona_nni.strategies.nni_border.tuner import BorderTuner
from sedona_nni.strategies.settings.studied import read_study, study_trial
from sedona_nni.strategies.settings.tuned import read_searching
from sedona_nni.strategies.sources.ledger import LedgerSource
from sedona_nni.strategies.tuner import SedonaTuner
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials import __main__ as trial_main
from sedona_nni.trials import search, study, train

TASK = Task(backbone="vgg11", width_multiplier=0.25)
QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart.yml")


class Asked(Exception):
    """Instead of loading: how many workers were asked for."""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(task: Task, fraction: float, *, workers: int | None = None) -> Any:
        raise Asked(workers)

    for module in (search, study, train):
        monkeypatch.setattr(module, "load_splits", load)


MACHINE = {"device": "cpu", "workers": 3}


def sent(tuner: BorderTuner, settings: Any) -> dict[str, Any]:
    """What of the settings is in every trial that a tuner sends."""
    source = tuner.source
    assert isinstance(source, LedgerSource)
    source.settings = settings
    return source.common


SEDONA = read_searching({"task": {}, "num_blocks": 2, **MACHINE}, Path(), "sedona")
COMMON = sent(SedonaTuner(), SEDONA)
STUDY = read_study(
    {
        "task": {},
        "spaces": [{"num_blocks": 2}],
        "budget": 2,
        "replicates": {"sedona": 1, "probe": 1, "backprop": 1},
        "probe": {"cost": 1},
        **MACHINE,
    },
    Path(),
)
TRIALS: list[AnyTrial] = [
    TrainTrial(key="t", strategy="backprop", **COMMON, decoupling=Decoupling(backbone="vgg11")),
    SearchTrial(key="s", strategy="sedona", search="sedona", aux=("conv1",), **COMMON),
    SearchTrial(key="p", strategy="probe", search="probe", aux=("conv1",), train={}, **COMMON),
    *(study_trial(STUDY, strategy, 0) for strategy in STUDY.study.replicates),
]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.key)
def test_a_trial_does_as_the_experiment_says(tmp_path: Path, trial: AnyTrial) -> None:
    with pytest.raises(Asked) as asked:
        trial_main.run(trial, torch.device("cpu"), tmp_path, print)
    assert asked.value.args == (3,)


def test_a_trial_of_an_older_experiment(tmp_path: Path) -> None:
    parameters = {
        "key": "backprop-000",
        "stage": "train",
        "strategy": "backprop",
        "task": {},
        "decoupling": {"backbone": "vgg11"},
        "device": "cpu",
        "threads": None,
    }
    with pytest.raises(Asked) as asked:
        trial_main.run(read_trial(parameters), torch.device("cpu"), tmp_path, print)
    assert asked.value.args == (None,)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", QUICKSTART, "--directory", "d", "--decoupling", "backprop"),
        ("search", QUICKSTART, "--directory", "d"),
        ("test", "d"),
    ],
)
@pytest.mark.parametrize("workers", [0, 5])
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], workers: int
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train.TrainingRun(
        task=TASK, decoupling=Decoupling(backbone="vgg11"), settings=TrainSettings()
    )
    if arguments[0] == "test":
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "run.json").write_text(run.model_dump_json())
    command = ["sedona-nni", *arguments, "--device", "cpu", "--workers", str(workers)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(Asked) as asked:
        command_line.main()
    assert asked.value.args == (workers,)
