"""`strategies.runner`: how an experiment that NNI calls done has ended, without a manager."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from report_records import record, searched, trained
from rich.console import Console

from sedona_nni.files import write_json
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.strategies import runner
from sedona_nni.strategies.experiment import read_experiment
from sedona_nni.strategies.experiment_file import find_experiment
from sedona_nni.strategies.nni_border.terminal import finish_mark
from sedona_nni.strategies.nni_border.wire import packed, trial_folder
from sedona_nni.strategies.watched import Outcome

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yml"

DONE = [
    searched(),
    *(trained(f"sedona-00{i}", 0.9) for i in range(3)),
    *(trained(f"uniform-00{i}", 0.8) for i in range(3)),
    *(trained(f"random-00{i}", 0.7) for i in range(2)),
    record("random-002", status="failed", reason="diverged"),
    *(trained(f"backprop-00{i}", 0.9) for i in range(3)),
]


class Experiment(SimpleNamespace):
    """What `running` would yield: done, with the trials of a ledger."""

    id, port, lifted, concurrency = "abc", 8080, False, 1
    api = SimpleNamespace(address="http://127.0.0.1:8080")
    again = "`sedona-nni resume abc` goes on"
    beyond_limits = "`sedona-nni resume abc --unlimited` goes on without its limits"

    def results_folder(self, within: Path) -> Path:
        return within / self.id

    @property
    def has_finished(self) -> bool:
        return finish_mark(self.checkpoint).exists()

    def polls(self) -> Iterator[tuple[list[Any], Outcome]]:
        yield [], Outcome(0)

    def outcome(self) -> Outcome:
        return Outcome(0)

    def stopped(self) -> list[Any]:
        return []

    def reached_limit(self) -> str:
        return "maxExperimentDuration is 20s"

    def lift_limits(self) -> None:
        self.lifted = True


@pytest.fixture
def supervised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Path | None, str]]:
    """Return a function that supervises an experiment of such trials: code, folder, and words."""
    config = yaml.safe_load(QUICKSTART.read_text())
    class_args = config["tuner"]["classArgs"]
    class_args |= {"compare": ["uniform", "random", "backprop"], "trials_per_strategy": 3}
    del class_args["probe"]
    for folder in (config, config["tuner"]):
        for name in {"trialCodeDirectory", "codeDirectory"} & set(folder):
            folder[name] = str(QUICKSTART.parents[1])
    experiment = tmp_path / "experiment.yml"
    experiment.write_text(yaml.safe_dump(config))
    planned = read_experiment(experiment)

    def supervise(
        records: list[TrialRecord], *, finished: bool = False, **options: Any
    ) -> tuple[int, Path | None, str]:
        started = Experiment(checkpoint=tmp_path, folder=tmp_path / "nni")
        trials = [each.model_dump(mode="json") for each in records]
        if trials:
            write_json(
                tmp_path / "trials.json",
                {"format": "sedona-nni/trials/1", "trials": trials},
            )
        if finished:
            finish_mark(tmp_path).touch()
        for name in ("_SETTLE_S", "_FINISH_S"):  # no tuner is there to be waited for
            monkeypatch.setattr(runner, name, 0.0)
        monkeypatch.setattr(runner, "running", lambda *_, **__: contextlib.nullcontext(started))
        said = io.StringIO()
        console = Console(file=said, width=1000)
        start = runner.under_nni(
            find_experiment(QUICKSTART), console, port=8080, public=False, **options
        )
        code, folder = runner.supervise(
            start, planned, results=tmp_path / "results", console=console
        )
        assert started.lifted == options.get("unlimited", False)
        return code, folder, said.getvalue()

    return supervise


def test_all_done(supervised: Any, tmp_path: Path) -> None:
    left = trial_folder(tmp_path / "nni", "x")
    packed({"key": "sedona-000", "data": "cats"}, (), left)
    write_json(left / "results.json", {"default": 0.9})
    (left / "model.safetensors").write_text("weights")
    code, folder, said = supervised(DONE, finished=True)
    assert (code, "sedona-nni:" in said) == (0, False)
    assert (folder / "best" / "model.safetensors").read_text() == "weights"
    rows = json.loads((folder / "table.json").read_text())
    assert {row["num_planned"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("records", "lacking", "trials"),
    [
        ([], "its search, 3 of 3 trainings of sedona, 3 of 3 trainings of uniform", None),
        (
            [searched(), *DONE[1:3], record("uniform-000")],
            "1 of 3 trainings of sedona, 3 of 3 trainings of uniform, 3 of 3 trainings of random",
            ["2 of 3", "0 of 3", "0 of 3", "0 of 3"],
        ),
        (
            DONE[:-1],
            "1 of 3 trainings of backprop",
            ["3", "3", "2 (1 failed)", "2 of 3"],
        ),
    ],
)
def test_ended_by_a_limit_is_no_success(
    records: list[TrialRecord], lacking: str, trials: list[str] | None, supervised: Any
) -> None:
    code, folder, said = supervised(records)
    assert code == 1
    assert f"has ended early, as its maxExperimentDuration is 20s; it lacks {lacking}" in said
    assert "`sedona-nni resume abc --unlimited` goes on without its limits" in said
    if trials is None:
        assert folder is None
    else:
        table = (folder / "table.md").read_text().splitlines()[2:]
        assert [line.split(" | ")[-1].removesuffix(" |") for line in table] == trials


def test_limits_are_lifted_where_something_is_missing(supervised: Any) -> None:
    supervised(DONE, unlimited=True)


def test_a_strategy_none_of_whose_trainings_succeeded(supervised: Any) -> None:
    failed = [record(f"uniform-00{i}", status="failed", reason="diverged") for i in range(3)]
    code, _, said = supervised([*DONE[:4], *failed, *DONE[7:]], finished=True)
    assert code == 1
    assert "sedona-nni: no training of uniform succeeded" in said


def test_results_that_cannot_be_written_in_the_end(supervised: Any, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    code, folder, said = supervised(DONE, finished=True)
    assert (code, folder) == (1, None)
    assert "the results could not be written ([Errno" in said
    assert "`sedona-nni report abc` shows them" in said
