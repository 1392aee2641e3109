"""`sedona_nni.strategies.experiment`: experiment files, ours and wrong ones."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nni_node
import pytest
import yaml
from nni.experiment.config import ExperimentConfig

from sedona_nni.errors import InputError
from sedona_nni.strategies.experiment import (
    Experiment,
    changed_since_start,
    read_experiment,
    remember_file,
)
from sedona_nni.strategies.nni_border.launcher import require_option
from sedona_nni.strategies.pruners import MedianSettings
from sedona_nni.strategies.settings import BalancedSettings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yml"))


def test_there_are_experiments() -> None:
    names = {path.name for path in FILES}
    assert {
        *("quickstart.yml", "random_digits.yml", "evolution_digits.yml"),
        *("sedona_vgg19.yml", "random_vgg19.yml", "evolution_vgg19.yml"),
        *("probe_digits.yml", "probe_vgg19.yml", "study_vgg13.yml", "study_resnet18.yml"),
    } <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_valid_and_opens_with_the_command_that_runs_it(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.settings.num_trials > 0
    assert experiment.folder == EXPERIMENTS.parent
    command = path.read_text().splitlines()[0]
    if not command.startswith("# sedona-nni search"):
        assert "nnictl's is open to the whole network" in path.read_text()
    place = path.relative_to(EXPERIMENTS.parent)
    assert command in (
        f"# sedona-nni run {place}",
        f"# sedona-nni search {place} --directory DIR",
        f"# make {path.stem}",
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_none_asks_nni_for_gpus(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    # a whole GPU of a host with one hangs NNI's manager
    assert "trialGpuNumber" not in config
    assert "trialGpuNumber" not in config["trainingService"]


def changed(tmp_path: Path, *place: str, value: Any) -> Path:
    """Write the quickstart with one value changed."""
    config = yaml.safe_load((EXPERIMENTS / "quickstart.yml").read_text())
    config["trialCodeDirectory"] = config["tuner"]["codeDirectory"] = str(EXPERIMENTS.parent)
    node = config
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(config))
    return path


ARGS = ("tuner", "classArgs")
RATE = {"_type": "loguniform", "_value": [0.01, 0.1]}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("trialConcurency",), 2, "does not have field(s) trialconcurency"),
        (("trialConcurrency",), 0, "assert self.trial_concurrency > 0"),
        (
            ("tuner", "className"),
            "sedona_nni.strategies.tuner.Tuner",
            "tuner.className: must be one of",
        ),
        ((*ARGS, "num_block"), 2, "tuner.classArgs.num_block: unknown field"),
        ((*ARGS, "num_blocks"), 9, "num_blocks: must be from 1 to the number of layers, 8"),
        ((*ARGS, "task", "backbone"), "vgg12", "backbone: must be one of"),
        ((*ARGS, "train", "epoch"), 3, "tuner.classArgs.train.epoch: unknown field"),
        ((*ARGS, "aux"), ["conv0"], "aux: must be one of"),
        (("trialGpuNumber",), 1, "trialGpuNumber: must be left out, as each trial takes a GPU"),
        (
            ("trainingService",),
            {"platform": "local", "useActiveGpu": True, "trialGpuNumber": 2},
            "trialGpuNumber: must be left out, as each trial takes a GPU of its own by itself, "
            "but got 2",
        ),
        (
            ("trainingService",),
            {"platform": "local", "gpuIndices": 1},
            "trainingService.gpuIndices: must be left out, as each trial takes a GPU",
        ),
        (("searchSpace",), {"learning_rate": 1}, "searchSpace.learning_rate: must be a setting"),
        ((*ARGS, "task", "image_size"), 16, "image_size: must be at least 32 for vgg11, but got"),
        ((*ARGS, "task", "width_multiplier"), math.inf, "tuner.classArgs.task.width_multiplier: "),
        ((*ARGS, "task", "dataset"), "digit", "dataset: must be one of"),
        ((*ARGS, "task", "split_seed"), -1, "task.split_seed: Input should be greater than or eq"),
        ((*ARGS, "task", "split_seed"), 2**32, "task.split_seed: must be below 2^32, but got 42"),
        ((*ARGS, "train", "seed"), 2**32, "train.seed: must be below 2^32, but got 4294967296"),
        ((*ARGS, "search", "seed"), 2**53, "tuner.classArgs.search.seed: Input should be less th"),
        (
            (*ARGS, "train_for"),
            {"sedona": {"seed": 2**40}},
            "train_for.sedona.seed: must be below 2^32",
        ),
        (
            ("assessor",),
            {"name": "Medianstop", "classArgs": {"optimize_mode": "maximize"}},
            "assessor: must not be given; to stop hopeless trainings, tuner.classArgs has `pruner",
        ),
        (
            ("searchSpace",),
            {"lr": RATE, "lr_min": {"_type": "uniform", "_value": [0, 0.1]}},
            "searchSpace.lr, searchSpace.lr_min: lr_min must be at most lr, 0.01, but got 0.1; "
            "every combination of their values must be possible, please narrow them (for sedona)",
        ),
        (
            (*ARGS, "train_for"),
            {"uniform": {"lr_min": 0.04}},
            "searchSpace.lr: lr_min must be at most lr, 0.005, but got 0.04 (for uniform)",
        ),
        (
            ("searchSpace",),
            {"method": {"_type": "choice", "_value": ["greedy", "ddg"]}},
            "searchSpace.method: aux: must be none at every cut for the method ddg, but got",
        ),
    ],
)
def test_wrong_values_are_one_line(
    tmp_path: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_experiment(changed(tmp_path, *place, value=value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_of_a_date_is_a_seed(tmp_path: Path) -> None:
    """Optuna's samplers take 32 bits, and a training of another strategy the next seeds."""
    read_experiment(changed(tmp_path, *ARGS, "seed", value=20240101))


@pytest.mark.parametrize("place", ["trials.py", "strategies/__init__.py"])
def test_what_trials_would_import_in_place_of_ours_is_refused(tmp_path: Path, place: str) -> None:
    """Trials run in ``trialCodeDirectory``, where Python looks first."""
    path = changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    read_experiment(path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("print('not ours')")
    name = place.partition("/")[0]
    with pytest.raises(InputError) as caught:
        read_experiment(path)
    assert str(caught.value) == (
        f"trialCodeDirectory: must not have {name} of its own, which trials would import in place "
        f"of the installed one, but got {str(tmp_path / name)!r}"
    )


def test_a_folder_that_is_no_package_is_refused_where_python_prefers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does to an editable installation, which is found by a hook that comes last."""
    path = changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "1.log").touch()
    others = [each for each in sys.path if not Path(each, "trials").exists()]
    monkeypatch.setattr(sys, "path", [*others, str(EXPERIMENTS.parent)])
    read_experiment(path)
    monkeypatch.setattr(sys, "path", others)
    with pytest.raises(InputError, match="must not have trials of its own"):
        read_experiment(path)


def test_another_copy_of_ours_is_none_of_the_users_own(tmp_path: Path) -> None:
    path = changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    shutil.copytree(EXPERIMENTS.parent / "trials", tmp_path / "trials")
    read_experiment(path)


def test_a_file_that_was_edited_since_the_start_is_compared(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "seed", value=1)
    config = ExperimentConfig.load(path).json()
    checkpoint = tmp_path / "checkpoint"
    assert changed_since_start(config, checkpoint) is None  # as of plain nnictl
    remember_file(path, checkpoint)
    assert changed_since_start(config, checkpoint) == (path, [])
    changed(tmp_path, *ARGS, "seed", value=2)
    assert changed_since_start(config, checkpoint) == (path, ["tuner.classArgs.seed"])
    changed(tmp_path, "searchSpace", value={})
    assert changed_since_start(config, checkpoint) == (
        path,
        ["searchSpace.lr", "searchSpace.weight_decay", "tuner.classArgs.seed"],
    )
    path.write_text("{")
    found = changed_since_start(config, checkpoint)
    assert found == (path, ["which NNI does not accept any more"])
    path.unlink()
    assert changed_since_start(config, checkpoint) is None


def test_the_bridge_has_no_hyperparameters(tmp_path: Path) -> None:
    path = changed(tmp_path, "tuner", "className", value="sedona_nni.strategies.bridge.BridgeTuner")
    config = yaml.safe_load(path.read_text())
    config["tuner"]["classArgs"] = {
        "strategy": "random",
        "max_trials": 2,
        "task": {},
        "num_blocks": 2,
    }
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"searchSpace: must be \{\}"):
        read_experiment(path)


def test_a_machine_without_the_data_set(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "task", value={"dataset": "cifar10", "data_dir": str(tmp_path)})
    with pytest.raises(InputError, match="data_dir"):
        read_experiment(path).check_machine()


def test_a_machine_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sedona_nni.strategies.nni_border.devices.visible_gpus", lambda: [])
    with pytest.raises(InputError, match="device: is 'cuda', but PyTorch finds no usable GPU"):
        read_experiment(changed(tmp_path, *ARGS, "device", value="cuda")).check_machine()


def test_node_finds_a_script_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" c\\d %20'
    folder.mkdir()
    (folder / "hook.js").write_text("console.log('loaded')")
    node = Path(nni_node.__file__).with_name("node")
    options = {"NODE_OPTIONS": require_option(folder / "hook.js")}
    done = subprocess.run([node, "-e", ""], env=options, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("loaded\n", "")


def test_relative_paths_are_relative_to_the_trial_code(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "task", "data_dir", value="data")
    assert read_experiment(path).task.data_dir == str(EXPERIMENTS.parent / "data")


@pytest.mark.parametrize("content", [None, "- a list", "{"])
def test_files_that_are_no_experiment(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "experiment.yml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"experiment\.yml: "):
        read_experiment(path)


@pytest.mark.parametrize("name", ["sedona_vgg19.yml", "probe_vgg19.yml"])
def test_the_pruner_that_the_files_suggest(name: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS / name).read_text().replace("# pruner", "pruner")
    (tmp_path / name).write_text(text.replace(": ..", f": {EXPERIMENTS}/.."))
    settings = read_experiment(tmp_path / name).settings
    assert settings.pruner == MedianSettings()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["sedona_vgg19.yml", "random_vgg19.yml"])
def test_the_bound_that_the_files_suggest(name: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS / name).read_text()
    assert "# max_block_share: 1.3/K" in text
    text = text.replace("# max_block_share", "max_block_share").replace(
        ": ..", f": {EXPERIMENTS}/.."
    )
    (tmp_path / name).write_text(text)
    settings = read_experiment(tmp_path / name).settings
    assert isinstance(settings, BalancedSettings)
    assert settings.max_block_share == "1.3/K"


def test_a_bound_that_no_decoupling_respects(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "max_block_share", value=0.2)
    with pytest.raises(InputError, match="max_block_share: must be at least"):
        read_experiment(path)


def test_time_is_measured_where_the_tuner_runs_so_trials_have_to_be_there(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "max_block_share", value="1.5/K")
    config = yaml.safe_load(path.read_text())
    config["tuner"]["classArgs"]["compute"] = "time"
    path.write_text(yaml.safe_dump(config))
    complete = ExperimentConfig.load(path).json()
    Experiment.from_config(complete)  # measures nothing yet
    complete["trainingService"]["platform"] = "remote"
    with pytest.raises(InputError, match=r"compute: time is measured .* but trials run on remote"):
        Experiment.from_config(complete)


def test_a_project_that_was_moved_is_one_line(tmp_path: Path) -> None:
    """NNI keeps absolute paths, and looks for them at a start only."""
    before = tmp_path / "before"
    before.mkdir()
    place = ("trialCodeDirectory",)
    config = ExperimentConfig.load(changed(tmp_path, *place, value=str(before))).json()
    Experiment.from_config(config)
    before.rename(tmp_path / "after")
    with pytest.raises(InputError, match=r"^trialCodeDirectory: .*before is not there; .*moved"):
        Experiment.from_config(config)
