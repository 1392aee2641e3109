"""The scripts in `experiments/clusters`, run as a batch system runs them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "experiments" / "clusters"
TRIAL = ROOT / "tests" / "support" / "folder_trial.py"


def submit(script: str, tmp_path: Path, **changes: Any) -> Path:
    """Run a script with an experiment, twice; return the folder that it leaves."""
    config = {
        "trialCommand": shlex.join([sys.executable, str(TRIAL)]),
        "trialConcurrency": 2,
        "trainingService": {"platform": "local"},
        "searchSpace": {},
        **changes,
    }
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "plan.json").write_text("{}")
    here = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EXPERIMENT": "experiment.yml",
        "SCRATCH": str(tmp_path),
        "DEVICE": "cpu",
        "BLOCKS": "2",
    }
    for _ in range(2):  # as after an interruption
        done = subprocess.run(
            ["sh", shutil.copy(CLUSTERS / script, tmp_path)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return tmp_path / "vgg19"


def tuner(name: str, **class_args: Any) -> dict[str, Any]:
    class_name = f"sedona_nni.strategies.tuner.{name}"
    return {"className": class_name, "codeDirectory": ".", "classArgs": class_args}


@pytest.mark.slow("starts the program twice")
def test_a_whole_experiment(tmp_path: Path) -> None:
    class_args = {"num_blocks": 2, "compare": ["uniform"], "trials_per_strategy": 1}
    sedona = tuner("SedonaTuner", task={"backbone": "vgg11"}, **class_args)
    folder = submit("slurm.sh", tmp_path, tuner=sedona)
    table = json.loads((folder / "results" / "table.json").read_text())
    assert [row["strategy"] for row in table] == ["sedona", "uniform"]
    starts = list(folder.rglob("starts"))
    assert [path.read_text() for path in starts] == ["started\n"] * 3  # once each


@pytest.mark.slow("searches and trains")
def test_its_steps(tmp_path: Path) -> None:
    probing = tuner(
        "ProbeTuner",
        task={"backbone": "dgl-cnn4", "width_multiplier": 0.125, "train_limit": 100},
        num_blocks=2,
        aux=["conv1"],
        probe={"cost": 3},
        train={"epochs": 1, "batch_size": 32},
        compare=[],
        trials_per_strategy=1,
    )
    folder = submit("slurm_steps.sh", tmp_path, tuner=probing)
    decoupling = json.loads((folder / "trained" / "decoupling.json").read_text())
    assert len(decoupling["cuts"]) == 1
    assert (folder / "trained" / "model.safetensors").exists()
