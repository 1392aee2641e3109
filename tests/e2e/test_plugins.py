"""A stranger's plug-in under real NNI managers: in the command, the tuner and the trials."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from nni_world import World, get, status, wait_for

pytestmark = pytest.mark.nni

STRANGER = Path(__file__).with_name("stranger.py")


@pytest.fixture
def experiment(world: World) -> Path:
    """Return an experiment of nothing but the stranger's names, in a folder with the plug-in."""
    folder = world.home / "work"
    folder.mkdir()
    shutil.copy(STRANGER, folder)
    return write(world, folder, plugins=["./stranger.py"])


def write(world: World, folder: Path, **changes: Any) -> Path:
    class_args = {
        "task": {"backbone": "strange-net", "dataset": "strange-stripes"},
        "decoupling": "uniform:2:strange-linear",
        "aux": ["strange-linear"],
        "train": {"epochs": 1, "batch_size": 20, "method": "strange"},
        "device": "cpu",
        "threads": 1,
        **changes,
    }
    tuner = {
        "className": "sedona_nni.strategies.tuner.OptunaTuner",
        "codeDirectory": ".",
        "classArgs": class_args,
    }
    path = world.experiment(trialCommand="sedona-nni-trial", tuner=tuner)
    return path.rename(folder / "experiment.yml")


def test_it_is_loaded_in_the_command_the_tuner_and_the_trials(
    world: World, port: int, experiment: Path
) -> None:
    run = world.sedona("run", experiment, "--port", str(port), "--json")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    (row,) = json.loads(out)
    assert row["decoupling"]["backbone"] == "strange-net"
    assert row["decoupling"]["aux"] == ["strange-linear"]
    # so that its pictures show what was found
    assert re.search(r"^pictures: .* --plugin \S+/stranger\.py$", err, re.MULTILINE)
    # and again where it goes on
    experiment_id = re.findall(r"experiment (\w+), web UI", err)[0]
    config = json.loads(
        (world.home / "results" / experiment_id / "trials.json").read_text(encoding="utf-8")
    )
    assert config["trials"][0]["parameters"]["plugins"] == ["./stranger.py"]


def test_an_option_does_the_same_and_is_kept_for_a_resume(world: World, port: int) -> None:
    """Named from another folder than the experiment's, where the trials run."""
    folder = world.home / "elsewhere"
    folder.mkdir()
    shutil.copy(STRANGER, world.home)
    path = write(world, folder)
    run = world.sedona("run", path, "--port", str(port), "--json", "--plugin", "stranger")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    experiment_id = re.findall(r"experiment (\w+), web UI", err)[0]
    resumed = world.sedona("resume", experiment_id, "--port", str(port), "--json")
    again, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert json.loads(again) == json.loads(out)
    assert "now differs" not in err


def test_plain_nnictl_loads_it_too(world: World, port: int, experiment: Path) -> None:
    said = world.nnictl("create", "--config", experiment, "--port", str(port))
    wait_for(lambda: status(port) in ("DONE", "ERROR"))
    assert status(port) == "DONE", said
    (trial,) = get(port, "trial-jobs")
    assert trial["status"] == "SUCCEEDED"


def test_one_that_cannot_be_loaded_ends_the_command_before_anything_starts(
    world: World, port: int, experiment: Path
) -> None:
    (experiment.parent / "stranger.py").write_text("import no_such_module")
    run = world.sedona("run", experiment, "--port", str(port))
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert err == (
        f"sedona-nni: {experiment}: plugins: ./stranger.py cannot be loaded (ModuleNotFoundError: "
        f"No module named 'no_such_module', {experiment.parent}/stranger.py, line 1)\n"
    )
    assert not (world.home / "nni-experiments").exists()


def test_a_tuner_that_cannot_load_it_says_so_in_the_web_ui(
    world: World, port: int, experiment: Path
) -> None:
    (experiment.parent / "stranger.py").write_text("import no_such_module")
    world.nnictl("create", "--config", experiment, "--port", str(port))
    wait_for(lambda: status(port) == "ERROR")
    # what the web UI shows of it: a trial that fails with the reason
    errors = json.dumps([get(port, "check-status"), get(port, "trial-jobs")])
    found = (world.home / "nni-experiments").glob("*/checkpoint")
    (folder,) = {path.resolve() for path in found}  # NNI also has a link to the latest
    told = "".join(path.read_text() for path in folder.iterdir() if path.is_file())
    assert "plugins: ./stranger.py cannot be loaded" in errors + told


def test_a_trial_that_cannot_load_it_says_so_in_the_terminal(
    world: World, port: int, experiment: Path
) -> None:
    world.environment["STRANGER_FAILS_IN"] = "trial"
    run = world.sedona("run", experiment, "--port", str(port))
    _, err = run.communicate(timeout=200)
    assert run.returncode == 1
    assert re.search(
        r"sedona-nni: plugins: \./stranger\.py cannot be loaded \(RuntimeError: not in a trial, ",
        err,
    )
