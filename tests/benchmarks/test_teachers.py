"""`benchmarks.teachers`: what the ledger of a comparison says, and that it is the experiment's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.teachers.__main__ import main
from benchmarks.teachers.best import best
from benchmarks.teachers.published import PUBLISHED, published
from benchmarks.teachers.times import step_times
from benchmarks.teachers.views import show
from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import TrainTrial, TrainTrialResult
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone

TASK = Task(backbone="vgg11", width_multiplier=0.25)


def kept(
    path: Path,
    rows: dict[str, tuple[str, list[float], dict[str, Any]]],
    task: Task = TASK,
    tested: float = -0.01,
) -> Path:
    """Keep trainings that validate as told, and test by as much more."""
    ledger = Ledger(path)
    for strategy, (rule, accuracies, train) in rows.items():
        for number, accuracy in enumerate(accuracies):
            trial = TrainTrial(
                key=f"{strategy}-{number:03d}",
                strategy=strategy,
                task=task,
                decoupling=decoupling_by_rule(rule, "vgg11", 8),
                train={"batch_size": 16, **train},
            )
            ledger.start(trial)
            result = TrainTrialResult(
                default=accuracy,
                test_accuracy=accuracy + tested,
                peak_memory_mib=10.0 + number,
                processor_s=20.0,
                macs=100,
                parameters=50,
            )
            ledger.succeed(trial.key, result)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return kept(
        tmp_path / "trials.jsonl",
        {
            "backprop": ("backprop", [0.81, 0.83, 0.85], {}),
            "conv1-k2": ("uniform:2:conv1", [0.71, 0.73], {}),
            "conv1-k4": ("uniform:4:conv1", [0.61], {}),
            "image-k4": ("uniform:4:conv1+image", [0.65], {}),
            "ddg-k2": ("uniform:2:none", [0.5], {"method": {"name": "ddg"}}),
        },
    )


def test_means_and_spreads(ledger: Path) -> None:
    """82 and a standard deviation of 2; 71 and the square root of 2."""
    (table,) = show(ledger).tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.headings[:3] == ["teacher", "K = 2", "K = 4"]
    assert rows["`backprop`"][:3] == ["82.00 ± 2.00 (3)", "", "11.0 (1.00)"]
    assert rows["`conv1`"][:2] == ["71.00 ± 1.41 (2)", "60.00 (1)"]
    assert rows["`ddg`"][:2] == ["49.00 (1)", "–"]
    assert rows["`conv1`"][-1] == "1.000"
    # Variances 4 and 2 with 2 and 1 degrees of freedom, pooled: 10 / 3; 2 / 3 of that: 1.49 squared
    assert table.title.endswith("of the difference of two means of three is 1.49")
    backbone = task_backbone(TASK)
    parameters = count_parameters(backbone.layers) + count_parameters(backbone.head)
    found = show(ledger).results["rows"]
    (image,) = [row for row in found if row["name"] == "image"]
    assert image["inference_parameters"] > parameters
    assert float(rows["`image`"][-1]) == pytest.approx(
        image["inference_parameters"] / parameters, abs=5e-4
    )


def test_steps_take_turns(tmp_path: Path) -> None:
    """Of each row with the settings of its trials, and beside back-propagation in the same turn."""
    digits = TASK.model_copy(update={"dataset": "digits", "image_size": 32, "train_limit": 200})
    ledger = kept(
        tmp_path / "trials.jsonl",
        {
            "backprop": ("backprop", [0.8], {}),
            "conv1-k2": ("uniform:2:conv1", [0.7, 0.7], {}),
            "barlow-k2": ("uniform:2:barlow", [0.7], {"views": 2}),
            "infopro-k2": ("uniform:2:infopro", [0.7], {}),
            "ddg-k4": ("uniform:4:none", [0.5], {"method": {"name": "ddg"}}),
        },
        digits,
    )
    view = step_times(ledger, turns=3, steps=2)
    found = {(row["name"], row["num_blocks"]): row for row in view.results["steps"]}
    names = ["backprop", "conv1", "barlow", "infopro", "ddg"]
    assert [*found] == list(zip(names, [1, 2, 2, 2, 4], strict=True))
    for row in found.values():
        assert len(row["processor_s"]) == 3
        assert min(row["processor_s"]) > 0
    assert found["backprop", 1]["ratio"] == 1
    assert found["infopro", 2]["ratio"] > found["conv1", 2]["ratio"]  # its decoder: twice as much
    (table,) = view.tables
    assert table.headings == ["teacher", "no cut", "K = 2", "K = 4"]
    assert [row[1:].index("") for row in table.rows[:2]] == [1, 0]

    times = tmp_path / "times.json"
    times.write_text(json.dumps(view.results))
    (table,) = show(ledger, times=times).tables
    assert table.headings[-3:] == ["step", "speed-up", "weights in inference"]
    assert [row[-3] for row in table.rows] == [f"{row['ratio']:.2f}" for row in found.values()]


def test_published_orders_beside_ours(tmp_path: Path) -> None:
    ledger = kept(
        tmp_path / "compare_vgg11.jsonl",
        {
            "backprop": ("backprop", [0.8, 0.82], {}),
            "linear-k2": ("uniform:2:linear", [0.7], {}),
            "mlp-sr-k2": ("uniform:2:mlp-sr", [0.75, 0.77], {}),
            "infopro-k2": ("uniform:2:infopro", [0.65], {}),
            "fdg-k4": ("uniform:4:none", [0.83], {"method": {"name": "ddg", "beta": 0.5}}),
        },
    )
    view = published([ledger])
    infopro, fdg = view.tables
    assert infopro.headings[1:3] == ["`linear`", "`mlp-sr`"]
    rows = {row[0]: row[1:] for row in infopro.rows}
    # 10.30 less 7.37, and so on
    assert rows["K = 2, ResNet-32"] == ["+2.93", "+1.32", "+0.76", "+0.39", "as published"]
    # Worse by 81 less 70, less 76 and less 65: one of three pairs is as published
    assert rows["K = 2, vgg11 here"] == ["+11.00", "+5.00", "+16.00", "–", "1 of 3"]
    assert rows["K = 8, vgg11 here"][-1] == "0 of 0"
    rows = {row[0]: row[1:] for row in fdg.rows}
    assert rows["K = 4, vgg11 here"] == ["–", "–", "–", "-2.00", "0 of 0"]
    for each in PUBLISHED:  # what the pairs are counted in
        for k in next(iter(each.errors.values())):
            errors = [by_k[k] for by_k in each.errors.values()]
            assert errors == sorted(errors, reverse=True)


def test_the_best_of_each_column(tmp_path: Path) -> None:
    ledger = kept(
        tmp_path / "compare_vgg11.jsonl",
        {
            "backprop": ("backprop", [0.8, 0.82], {}),
            "backprop-checkpointed": ("backprop", [0.81], {"checkpoint": "layers"}),
            "conv1-k2": ("uniform:2:conv1", [0.75, 0.77], {}),
            "linear-k2": ("uniform:2:linear", [0.75, 0.77], {}),
            "aug1-k2": ("uniform:2:aug1", [0.7, 0.81], {}),
            "conv1-k4": ("uniform:4:conv1", [0.7], {}),
            "aug1-k4": ("uniform:4:aug1", [0.6, 0.6, 0.6], {}),
        },
    )
    ratios = [("backprop", 1, 1.0), ("conv1", 2, 0.9), ("conv1", 4, 1.2), ("aug1", 4, 1.1)]
    steps = [{"name": n, "num_blocks": k, "ratio": ratio} for n, k, ratio in ratios]
    times = tmp_path / "times.json"
    times.write_text(json.dumps({"steps": steps}))
    with pytest.raises(InputError, match="times: must be 1, one for each ledger, but got 2"):
        best([ledger], [times, times])
    (table,) = best([ledger], [times]).tables
    assert table.headings == ["network", "back-propagation", "K = 2", "K = 4", "peak", "step"]
    # Peaks are 10 and, of further seeds, 1 more each: 10.5 of back-propagation
    (row,) = table.rows
    assert row[:4] == [
        "vgg11",
        "80.00 (1.41)",
        "`conv1`, `linear` 75.00 (1.41)",
        "`conv1` 69.00",
    ]
    assert row[4:] == ["`conv1` 0.95, checkpointing 0.95", "`aug1` 1.10"]


def test_the_best_is_chosen_by_validation(tmp_path: Path) -> None:
    path = tmp_path / "compare_vgg11.jsonl"
    kept(path, {"backprop": ("backprop", [0.8], {})})
    kept(path, {"conv1-k2": ("uniform:2:conv1", [0.75], {})}, tested=0.1)
    kept(path, {"linear-k2": ("uniform:2:linear", [0.76], {})}, tested=-0.1)
    checkpointed = ("backprop", [0.8], {"checkpoint": "layers"})
    kept(path, {"backprop-checkpointed": checkpointed, "aug1-k4": ("uniform:4:aug1", [0.6], {})})
    times = tmp_path / "times.json"
    times.write_text(json.dumps({"steps": [{"name": "aug1", "num_blocks": 4, "ratio": 1.0}]}))
    ((_, _, two, *_),) = best([path], [times]).tables[0].rows
    assert two == "`linear` 66.00"


def test_nothing_to_compare_with(tmp_path: Path) -> None:
    alone = kept(tmp_path / "trials.jsonl", {"conv1-k2": ("uniform:2:conv1", [0.7], {})})
    with pytest.raises(InputError, match="no training by back-propagation has succeeded yet"):
        show(alone)
    with pytest.raises(InputError, match="ledger: must be a file that exists"):
        show(tmp_path / "nowhere.jsonl")


@pytest.mark.slow(reason="trains, twice")
def test_what_is_kept_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second machine trains what the first has not; of the first it has the ledger alone."""
    experiment = tmp_path / "two.yml"
    experiment.write_text(
        f"""
        experimentName: two
        trialCommand: {sys.executable} -m sedona_nni.trials
        trialCodeDirectory: .
        trialConcurrency: 1
        trainingService: {{platform: local}}
        searchSpace: {{}}
        tuner:
          className: sedona_nni.strategies.tuner.OptunaTuner
          codeDirectory: .
          classArgs:
            task: {{backbone: dgl-cnn4, width_multiplier: 0.1, image_size: 8, train_limit: 100}}
            decoupling: uniform:2:mlp
            name: mlp-k2
            compare: [backprop]
            trials_per_strategy: 2
            train: {{epochs: 1, batch_size: 32}}
            device: cpu
            threads: 1
        """
    )
    command = [sys.executable, "-m", "sedona_nni.command_line", "run", str(experiment)]

    def run(folder: Path) -> dict[str, Any]:
        subprocess.run([*command, "--directory", str(folder)], check=True, capture_output=True)
        return {
            record.key: record.result.test_accuracy
            for record in Ledger(folder / "checkpoint" / "trials.jsonl")
            if isinstance(record.result, TrainTrialResult)
        }

    whole = run(tmp_path / "whole")
    assert len(whole) == 4
    part = tmp_path / "part.jsonl"
    lines = (tmp_path / "whole" / "checkpoint" / "trials.jsonl").read_text().splitlines(True)
    part.write_text("".join(lines[:4]))  # a trial that has ended, and one that began
    arguments = ["keep", str(part), "--experiment", str(experiment), "--into", str(tmp_path / "d")]
    monkeypatch.setattr("sys.argv", ["benchmarks.teachers", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "two.jsonl: 1 trials" in capsys.readouterr().out
    other = tmp_path / "other"
    arguments = [str(tmp_path / "d" / "two.jsonl"), str(other), "--experiment", str(experiment)]
    monkeypatch.setattr("sys.argv", ["benchmarks.teachers", "begin", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert run(other) == pytest.approx(whole)
    started = [path.name for path in (other / "environments").rglob("parameter*")]
    assert len(started) == 3, "what had ended is not trained again"
