"""`sedona_nni.strategies.experiment`: experiment files, ours and wrong ones."""

from __future__ import annotations

import contextlib
import importlib.util
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
from sedona_nni.strategies.checkpoint import ANNOUNCED_FILE
from sedona_nni.strategies.experiment import Experiment, check_trials, read_experiment
from sedona_nni.strategies.experiment_file import (
    ExperimentFile,
    changed_since_start,
    find_experiment,
    remember_file,
    shipped_names,
)
from sedona_nni.strategies.nni_border.launcher import require_option
from sedona_nni.strategies.nni_border.scripts import path_of_trials
from sedona_nni.strategies.pruners import MedianSettings
from sedona_nni.strategies.settings.explored import ExploredSettings
from sedona_nni.strategies.settings.tuned import TunedSettings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yml"))


def test_there_are_experiments() -> None:
    names = {path.name for path in FILES}
    assert {
        *("quickstart.yml", "random_digits.yml", "evolution_digits.yml"),
        *("sedona_vgg19.yml", "random_vgg19.yml", "evolution_vgg19.yml"),
        *("probe_digits.yml", "probe_vgg19.yml", "study_vgg13.yml", "study_resnet18.yml"),
        *("parallel_digits.yml", "remote.yml", "kubernetes.yml"),
    } <= names


@pytest.fixture(autouse=True)
def ssh_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user have one: NNI looks for that of an experiment on other machines."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").touch()
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_valid_and_opens_with_the_command_that_runs_it(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.settings.num_trials > 0
    assert experiment.folder == path.parent
    command = path.read_text().splitlines()[0]
    if not command.startswith("# sedona-nni search"):
        assert "nnictl's is open to the whole network" in path.read_text()
    name = path.relative_to(EXPERIMENTS).with_suffix("")
    assert command in (
        f"# sedona-nni run {name}",
        f"# sedona-nni run {name} --public",
        f"# sedona-nni search {name} --directory DIR",
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
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump(config))
    return changed_further(tmp_path, *place, value=value)


def changed_further(tmp_path: Path, *place: str, value: Any) -> Path:
    """Change one more value of what `changed` has written."""
    config = yaml.safe_load((tmp_path / "experiment.yml").read_text())
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
        (
            ("searchSpace",),
            [1],
            "searchSpace: must be a mapping of settings to what they are drawn",
        ),
        (("searchSpace",), 0, "drawn from, but got 0"),
        ((*ARGS, "leaders"), 10**9, "leaders: Input should be less than or equal to 1000, but got"),
        ((*ARGS, "task", "image_size"), 10**400, "image_size: must be pixels, 8 to 16,384, as in"),
        ((*ARGS, "task", "width_multiplier"), 1e308, "width_multiplier: Input should be less than"),
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


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("python -m trials", "trials.py"),
        ("python3.11 -m trials", "trials/__init__.py"),
        ("cd . && python3 -m sedona_nni.trials", "sedona_nni/__init__.py"),
    ],
)
def test_what_trials_would_run_in_place_of_ours_is_refused(
    tmp_path: Path, command: str, file: str
) -> None:
    """Trials run in ``trialCodeDirectory``, where Python looks first."""
    changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    path = changed_further(tmp_path, "trialCommand", value=command)
    read_experiment(path)  # the tests' own folder has them
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("print('not ours')")
    with pytest.raises(InputError) as caught:
        read_experiment(path)
    name = file.partition("/")[0]
    assert str(caught.value) == (
        f"trialCommand: must start this project's trials, but {command!r} would run "
        f"{str(tmp_path / name)!r}; sedona-nni-trial starts them in any folder"
    )


def test_a_module_that_only_a_checkout_has_is_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    path = changed_further(tmp_path, "trialCommand", value="python -m trials")
    others = [each for each in sys.path if not Path(each, "trials").exists()]
    monkeypatch.setattr(sys, "path", others)
    with pytest.raises(InputError, match=r"'python -m trials' finds them only in a checkout"):
        read_experiment(path)
    changed_further(tmp_path, "trialCodeDirectory", value=str(EXPERIMENTS.parent))
    read_experiment(path)


def test_our_command_may_run_in_any_folder(tmp_path: Path) -> None:
    for name in ("trials", "strategies", "search_spaces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
    read_experiment(changed(tmp_path, "trialCodeDirectory", value=str(tmp_path)))


def test_another_copy_of_ours_is_none_of_the_users_own(tmp_path: Path) -> None:
    changed(tmp_path, "trialCodeDirectory", value=str(tmp_path))
    path = changed_further(tmp_path, "trialCommand", value="python -m trials")
    shutil.copytree(EXPERIMENTS.parent / "trials", tmp_path / "trials")
    read_experiment(path)


@pytest.mark.parametrize(
    ("command", "platform", "is_refused"),
    [
        ("sedona-nni-trial", "local", True),
        ("sedona-nni-trial", "remote", False),
        ("/opt/bin/sedona-nni-trial", "local", False),
        ("bash mine.sh", "local", False),
    ],
)
def test_a_command_that_trials_would_not_find_is_refused(
    command: str, platform: str, is_refused: bool
) -> None:
    config = {"trialCommand": command, "trainingService": {"platform": platform}}
    refusal = pytest.raises(InputError, match=r"trialCommand: sedona-nni-trial is not on the PATH")
    with refusal if is_refused else contextlib.nullcontext():
        check_trials(config, "/usr/bin:/bin")
    check_trials(config, path_of_trials())


MACHINE = {"host": "192.0.2.1", "user": "me", "sshKeyFile": "~/.ssh/id_ed25519"}


@pytest.mark.parametrize(
    ("service", "message"),
    [
        (
            {"machineList": [{**MACHINE, "password": "secret"}]},
            "trainingService.machineList.0.password: must be left out, as NNI shows it to everyone",
        ),
        (
            {"machineList": [MACHINE, {**MACHINE, "sshPassphrase": "secret"}]},
            "trainingService.machineList.1.sshPassphrase: must be left out, as NNI shows it",
        ),
        (
            {"machineList": [{**MACHINE, "gpuIndices": [1]}]},
            "trainingService.machineList.0.gpuIndices: must be left out, as each trial takes a GPU",
        ),
        (
            {"machineList": [MACHINE], "reuseMode": True},
            "trainingService.reuseMode: must be left out, but got True",
        ),
        (
            {"machineList": [MACHINE], "nniManagerIp": "192.0.2.2"},
            "nniManagerIp: must be left out, as machines reach the manager through its SSH connec",
        ),
        (
            {"machineList": [{**MACHINE, "sshKeyFile": "nowhere"}]},
            "NNI does not accept it (RemoteMachineConfig: You must either provide password or a "
            "valid SSH key file",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:SSH password:UserWarning")
def test_what_machines_need_not_or_must_not_have_is_refused(
    tmp_path: Path, service: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    remote = {"platform": "remote", **service}
    with pytest.raises(InputError) as caught:
        read_experiment(changed(tmp_path, "trainingService", value=remote))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caplog.text == ""  # NNI warns of an address that nobody needs


def test_several_training_services_are_refused(tmp_path: Path) -> None:
    both = [{"platform": "local"}, {"platform": "remote", "machineList": [MACHINE]}]
    changed(tmp_path, "nniManagerIp", value="192.0.2.2")  # without which NNI stumbles
    with pytest.raises(InputError, match=r"^trainingService: must be one, not a list$"):
        read_experiment(changed_further(tmp_path, "trainingService", value=both))


def test_a_file_that_was_edited_since_the_start_is_compared(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "seed", value=1)
    config = ExperimentConfig.load(path).json()
    checkpoint = tmp_path / "checkpoint"
    assert changed_since_start(config, checkpoint) is None  # as of plain nnictl
    remember_file(ExperimentFile(path=path), checkpoint)
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


def test_the_number_of_trials_that_the_tuner_has_announced_is_no_edit(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "seed", value=1)
    config = {**ExperimentConfig.load(path).json(), "maxTrialNumber": 5}
    remember_file(ExperimentFile(path=path), tmp_path)
    for announced, changes in ((5, []), (6, ["maxTrialNumber"])):
        (tmp_path / ANNOUNCED_FILE).write_text(str(announced))
        assert changed_since_start(config, tmp_path) == (path, changes)


def test_a_file_that_versions_ago_left_its_path_alone(tmp_path: Path) -> None:
    path = changed(tmp_path, *ARGS, "seed", value=1)
    config = ExperimentConfig.load(path).json()
    (tmp_path / "experiment-file").write_text(str(path))
    assert changed_since_start(config, tmp_path) == (path, [])


class TestByName:
    """Experiments that come with the project, wherever the user is."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.fast_cases(2)
    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
    def test_each_runs_in_the_users_folder(self, path: Path, elsewhere: Path) -> None:
        name = str(path.relative_to(EXPERIMENTS).with_suffix(""))
        assert name in shipped_names()
        experiment = Experiment.from_config(find_experiment(name).config())
        assert experiment.folder == elsewhere
        data_dir = experiment.task.data_dir
        assert data_dir is None or elsewhere in Path(data_dir).parents

    def test_what_is_written_for_nnictl_is_what_was_checked(self, elsewhere: Path) -> None:
        file = find_experiment("published/cifar10_vgg19")
        with file.completed() as written:
            config = ExperimentConfig.load(written).json()
        assert config == file.config()
        assert config["trialCodeDirectory"] == str(elsewhere)
        assert config["trainingService"]["trialCodeDirectory"] == str(elsewhere)
        assert not written.exists()

    def test_it_is_not_taken_for_edited(self, elsewhere: Path) -> None:
        plugin = elsewhere / "mine.py"
        plugin.touch()
        file = find_experiment("quickstart").model_copy(update={"plugins": (str(plugin),)})
        remember_file(file, elsewhere)
        assert file.config()["tuner"]["classArgs"]["plugins"] == [str(plugin)]
        assert changed_since_start(file.config(), elsewhere) == (file.path, [])

    def test_a_file_of_the_user_comes_first(self, elsewhere: Path) -> None:
        (elsewhere / "quickstart").write_text("mine")
        assert find_experiment("quickstart") == ExperimentFile(path=elsewhere / "quickstart")

    def test_a_folder_is_no_experiment(self, elsewhere: Path) -> None:
        (elsewhere / "quickstart").mkdir()
        assert find_experiment("quickstart").folder == elsewhere

    def test_unknown_ones(self) -> None:
        with pytest.raises(InputError) as caught:
            find_experiment("quickstar")
        assert str(caught.value).startswith("experiment: must be a file or one of evolution_digits")
        assert "dgl/digits" in str(caught.value)
        with pytest.raises(InputError, match=r"^nowhere\.yml: there is no such file$"):
            find_experiment("nowhere.yml")


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


@pytest.mark.parametrize("content", ["- a list", "{", "", "trialCommand: x"])
def test_files_that_are_no_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "experiment.yml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"^NNI does not accept it \("):
        read_experiment(path)
    without_nni(monkeypatch)
    with pytest.raises(InputError, match=r"^(is not YAML|must have the fields|\w+: this field is)"):
        read_experiment(path)


def without_nni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read experiments as where NNI is not installed."""
    find = importlib.util.find_spec
    hidden = {"nni": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: hidden.get(name, find(name, *rest))
    )


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_without_nni_an_experiment_is_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_nni = read_experiment(path)
    without_nni(monkeypatch)
    assert read_experiment(path) == with_nni


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("name", ["sedona_vgg19.yml", "probe_vgg19.yml"])
def test_the_pruner_that_the_files_suggest(name: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS / name).read_text().replace("# pruner", "pruner")
    (tmp_path / name).write_text(text)
    settings = read_experiment(tmp_path / name).settings
    assert isinstance(settings, TunedSettings)
    assert settings.tuning.pruner == MedianSettings()


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("name", ["sedona_vgg19.yml", "random_vgg19.yml"])
def test_the_bound_that_the_files_suggest(name: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS / name).read_text()
    assert "# max_block_share: 1.3/K" in text
    (tmp_path / name).write_text(text.replace("# max_block_share", "max_block_share"))
    settings = read_experiment(tmp_path / name).settings
    assert isinstance(settings, TunedSettings | ExploredSettings)
    assert settings.bound.max_block_share == "1.3/K"


@pytest.mark.slow(reason="an experiment of several trials")
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
