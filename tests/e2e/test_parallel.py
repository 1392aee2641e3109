"""``train: {parallel: blocks}`` in an experiment under a real NNI manager."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest
from nni_world import World, get, wait_for

from benchmarks.faults.parallel import check_checkpoint

pytestmark = pytest.mark.nni


def test_trials_train_blocks_in_processes_and_report_as_from_one(world: World, port: int) -> None:
    """What is not cut has one process, and settings of its own."""
    experiment = world.experiment(
        trialCommand="sedona-nni-trial",
        searchSpace={},
        tuner_class="OptunaTuner",
        class_args={
            "task": {"backbone": "dgl-cnn4", "width_multiplier": 0.125, "train_limit": 200},
            "num_blocks": [],
            "decoupling": "uniform:2:mlp",
            "name": "halves",
            "compare": ["backprop"],
            "train": {"epochs": 2, "batch_size": 32, "parallel": "blocks", "accumulate": 2},
            "train_for": {"backprop": {"accumulate": 1, "checkpoint": "layers"}},
            "device": "cpu",
            "threads": 2,
        },
    )
    run = world.sedona("run", experiment, "--port", str(port))
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert world.processes() == []
    folder = world.home / "results" / re.findall(r"experiment (\w+), web UI", err)[0]
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    results = {trial["parameters"]["key"]: trial["result"] for trial in trials}
    cut, whole = results["halves-000"], results["backprop-000"]
    assert [rank["block"] for rank in cut["ranks"]] == [0, 1]
    assert cut["peak_memory_mib"] == max(rank["step_peak_mib"] for rank in cut["ranks"])
    assert whole["ranks"] == []
    for result in (cut, whole):  # but for what kernels take, which is much for so small a network
        assert 0.6 < result["ideal_peak_memory_mib"] / result["peak_memory_mib"] < 1.1
    assert (cut["device"], cut["cores"]) == (whole["device"], whole["cores"])
    for result in (cut, whole):
        assert result["history"]["epoch"] == [1, 2]
        assert result["peak_resident_mib"] > 100
        assert result["images_per_s"] == result["images"] / result["time_s"]
    assert {"block_1_accuracy", "block_2_accuracy"} <= cut["history"].keys()

    database = sqlite3.connect(world.home / "nni-experiments" / folder.name / "db" / "nni.sqlite")
    curves = database.execute("select count(*) from MetricData where type = 'PERIODICAL'")
    assert curves.fetchone() == (4,)  # an epoch each, of either training
    database.close()

    (cut_row,) = (line for line in out.splitlines() if "halves" in line)
    assert re.search(r" MiB +2 +[\d.]+× of [\d.]+× ", cut_row), out


def test_a_trial_that_nni_stops_leaves_no_rank_and_a_whole_checkpoint(
    world: World, port: int
) -> None:
    experiment = world.experiment(
        trialCommand="sedona-nni-trial",
        searchSpace={},
        tuner_class="OptunaTuner",
        class_args={
            "task": {"backbone": "dgl-cnn4", "width_multiplier": 0.125, "train_limit": 200},
            "num_blocks": [],
            "decoupling": "uniform:2:mlp",
            "name": "halves",
            "compare": [],
            "train": {"epochs": 100_000, "batch_size": 32, "parallel": "blocks"},
            "device": "cpu",
            "threads": 1,
        },
    )
    run = world.sedona("run", experiment, "--port", str(port))

    def checkpoint() -> Path | None:
        return next((each.parent for each in world.home.rglob("checkpoint/manifest.json")), None)

    folder = wait_for(checkpoint, seconds=120, process=run)
    ranks = [each for each in world.processes() if "sedona_nni.training.parallel" in each.cmdline()]
    assert len(ranks) == 3  # and who has started them
    (trial,) = get(port, "trial-jobs")
    world.nnictl("trial", "kill", experiment_id(port), "--trial_id", trial["trialJobId"])
    _, left = psutil.wait_procs(ranks, 30)
    assert not left
    assert check_checkpoint(folder.parent, 2) >= 1
    os.killpg(run.pid, signal.SIGINT)
    run.communicate(timeout=60)
    assert world.processes() == []


def experiment_id(port: int) -> str:
    """Return the id of the experiment whose manager listens there."""
    return str(get(port, "experiment")["id"])
