"""``sedona-nni run --directory``: real trainings, without NNI's manager."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from nni_world import World, wait_for

from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.nni_border.wire import trial_folder

pytestmark = [pytest.mark.slow("trains in processes that each import PyTorch")]

TIMES = {"time_s", "processor_s", "images_per_s", "peak_resident_mib"}


def experiment(world: World) -> Path:
    return world.experiment(
        trialCommand="sedona-nni-trial",
        searchSpace={},
        tuner_class="OptunaTuner",
        class_args={
            "task": {"backbone": "dgl-cnn4", "width_multiplier": 0.125, "train_limit": 300},
            "num_blocks": [],
            "decoupling": "uniform:2:mlp",
            "name": "halves",
            "compare": ["backprop"],
            "trials_per_strategy": 1,
            "train": {"epochs": 12, "batch_size": 32},
            "device": "cpu",
            "threads": 1,
        },
    )


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """What came of each trial, but for what is never twice the same."""
    found = {}
    for record in Ledger(folder / "checkpoint" / "trials.jsonl"):
        assert record.result is not None
        document = record.result.model_dump(mode="json")
        found[record.key] = {name: document[name] for name in document if name not in TIMES}
    return found


def test_interrupted_and_run_again_it_ends_as_undisturbed(world: World) -> None:
    file = experiment(world)
    whole, disturbed = world.home / "whole", world.home / "disturbed"
    run = world.sedona("run", file, "--directory", whole, "--json")
    out, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert [row["strategy"] for row in json.loads(out)] == ["halves", "backprop"]
    assert f"results: {whole / 'results'}" in said
    assert "NNI" not in said

    run = world.sedona("run", file, "--directory", disturbed, "--json")
    reports = trial_folder(disturbed, "halves-000") / "reports.jsonl"
    wait_for(lambda: reports.exists() and reports.read_text().count("\n") >= 3, process=run)
    assert not [each for each in world.processes() if each.name() == "node"]
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped by SIGINT, the same command goes on" in said
    assert world.processes() == []

    run = world.sedona("run", file, "--directory", disturbed, "--json")
    _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    again = [json.loads(line)["epoch"] for line in reports.read_text().splitlines()]
    assert sorted({*again}) == [*range(1, 13)]
    assert len(again) < 12 + 12, "it began again"
    assert results(disturbed) == results(whole)
    page = world.home / "page.html"
    report = world.sedona("report", disturbed, "--html", page)
    _, said = report.communicate(timeout=120)
    assert report.returncode == 0, said
    assert "halves-000" in page.read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--public"], "--public: must be left out with --directory, where there is no server"),
        (["--port", "9000"], "--port: must be left out with --directory, where there is no server"),
        (["--results", "here"], "--results: must be left out with --directory, which has them"),
    ],
)
def test_what_does_not_go_with_it(world: World, options: list[str], line: str) -> None:
    run = world.sedona("run", experiment(world), "--directory", world.home / "run", *options)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert said.startswith(f"sedona-nni: {line}, but got ")
    assert not (world.home / "run").exists()
