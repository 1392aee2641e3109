"""How many processes read images: asked for once, and heeded by whatever reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni import command_line
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.strategies.ledger_tuner import LedgerTuner
from sedona_nni.strategies.settings import ExperimentSettings
from sedona_nni.strategies.study_settings import StudySettings
from sedona_nni.strategies.tuner import SedonaTuner
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials import __main__ as trial_main
from sedona_nni.trials import probe, search, study, train

TASK = Task(backbone="vgg11", width_multiplier=0.25)
QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart.yml")


class Asked(Exception):
    """Instead of loading: how many workers were asked for."""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(task: Task, fraction: float, *, workers: int | None = None) -> Any:
        raise Asked(workers)

    for module in (probe, search, train):
        monkeypatch.setattr(module, "load_splits", load)
    monkeypatch.setattr(study._Trial, "_steps", lambda self: 100)


def tuner(model: type[LedgerTuner], settings: Any) -> Any:
    made = model.__new__(model)
    made.settings = settings
    return made


SETTINGS = ExperimentSettings(task=TASK, num_blocks=[2], device="cpu", workers=3)
TRAINING = tuner(SedonaTuner, SETTINGS).training(
    "backprop", 0, Decoupling(backbone="vgg11"), TrainSettings(), {}
)
SEARCH = tuner(SedonaTuner, SETTINGS)._search("sedona")
PROBING = {**SEARCH, "probe": ProbeSettings().model_dump(), "train": TrainSettings().model_dump()}
STUDY = StudySettings(
    task=TASK,
    spaces=[{"num_blocks": 2}],  # type: ignore[list-item]
    budget=2,
    replicates={"sedona": 1, "probe": 1, "backprop": 1},
    device="cpu",
    workers=3,
).model_dump(mode="json")


@pytest.mark.parametrize(
    "parameters",
    [
        TRAINING,
        SEARCH,
        PROBING,
        *(
            {"stage": "train", "strategy": strategy, "replicate": 0, **STUDY}
            for strategy in ("sedona", "probe", "backprop")
        ),
    ],
)
def test_a_trial_does_as_the_experiment_says(tmp_path: Path, parameters: dict[str, Any]) -> None:
    assert SearchSettings.model_validate(SEARCH["search"]) == SETTINGS.search
    with pytest.raises(Asked) as asked:
        trial_main._run(parameters, torch.device("cpu"), tmp_path)
    assert asked.value.args == (3,)


def test_a_trial_of_an_older_experiment(tmp_path: Path) -> None:
    for parameters in (
        TRAINING,
        {"stage": "train", "strategy": "backprop", "replicate": 0} | STUDY,
    ):
        older = {name: value for name, value in parameters.items() if name != "workers"}
        with pytest.raises(Asked) as asked:
            trial_main._run(older, torch.device("cpu"), tmp_path)
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
