"""`sedona_nni.command_line`: what needs no NNI manager."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sedona_nni
from sedona_nni import command_line
from sedona_nni.data.batches import Batch
from sedona_nni.data.sets import dataset_names, evaluation_batches, load_splits
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICKSTART = str(EXPERIMENTS / "quickstart.yml")
VGG19 = str(EXPERIMENTS / "published" / "vgg19.json")
RESNET50 = str(EXPERIMENTS / "published" / "resnet50.json")


def sedona(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sedona-nni", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


COMMANDS = (
    "run",
    "resume",
    "list",
    "report",
    "search",
    "train",
    "test",
    "data",
    "describe",
    "import-release",
    "discretise",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sedona(monkeypatch, command, "--help") == 0
    assert "--json" in capsys.readouterr().out


def test_help_flows_and_shows_flags_as_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert sedona(monkeypatch, "discretise", "--help") == 0
    shown = capsys.readouterr().out
    assert re.search(r"--pareto +Every best", shown)  # and no type
    assert re.search(r"--json +Print JSON", shown)
    lines = [line.strip() for line in shown.split("evidence is the sum")[1].splitlines()]
    paragraph = lines[: lines.index("")]
    assert min(map(len, paragraph[1:-1])) > 60


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert sedona(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"sedona-nni {sedona_nni.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["sedona-nni", "des"], "describe"), (["sedona-nni", "train", "--dec"], "--decoupling")],
)
def test_a_shell_completes(
    typed: list[str],
    offered: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_SEDONA_NNI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    sedona(monkeypatch)
    assert capsys.readouterr().out.split() == [offered]


def test_an_error_in_a_file_is_not_taken_for_one_of_an_option(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (EXPERIMENTS / "quickstart.yml").read_text().replace("num_blocks: 3", "num_blocks: 99")
    Path("wrong.yml").write_text(text.replace(": ..", ": ."))
    arguments = ("--directory", "d", "--decoupling", VGG19, "--num-blocks", "3")
    assert sedona(monkeypatch, "train", "wrong.yml", *arguments) == 2
    assert "wrong.yml: num_blocks: must be from 1 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yml"], "nowhere.yml: there is no such file"),
        (["data", "mnist"], "dataset: must be one of digits, fashion-mnist, cifar10, "),
        (
            ["data", "svhn", "--data-dir", "d"],
            ": --data-dir: svhn is missing or damaged; looked ",
        ),
        (["report", "unknown"], "experiment unknown: NNI knows no such experiment"),
        (["report", "unknown", "--html", "."], "--html: must be a file, but got '.'"),
        (
            ["report", "unknown", "--html", "/dev/null/r.html"],
            "--html: must be a folder that can be written to (/dev/null: Not a directory)",
        ),
        (
            ["run", QUICKSTART, "--results", "/dev/null/results"],
            "--results: must be a folder that can be written to (/dev/null: Not a directory), but",
        ),
        (
            ["resume", "unknown", "--results", "/dev/null"],
            "--results: must be a folder that can be written to (/dev/null: Not a directory), but",
        ),
        (["run", QUICKSTART, "--port", "-1"], "--port: must be from 1024 to 65534, but got -1"),
        (["run", QUICKSTART, "--port", "0"], "--port: must be from 1024 to 65534, but got 0"),
        (["resume", "x", "--port", "70000"], "--port: must be from 1024 to 65534, but got 70000"),
        (["resume", "unknown"], "experiment unknown: NNI knows no such experiment"),
        (["search", "nowhere.yml", "--directory", "d"], "nowhere.yml: there is no such file"),
        (
            ["search", str(EXPERIMENTS / "random_digits.yml"), "--directory", "d"],
            "must be an experiment of the SedonaTuner or ProbeTuner",
        ),
        (
            ["search", QUICKSTART, "--directory", "d", "--device", "tpu"],
            ": --device: must be auto, cpu or cuda, but got 'tpu'",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "nowhere.json"],
            "nowhere.json: cannot be read",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "uniform:9:cnn"],
            "num_blocks: must be from 1 to the number of layers, 8, but got 9",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "every:9:cnn"],
            "block_size: must be from 1 to the number of layers, 8, but got 9",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "uniform:2:cnm"],
            "aux: must be one of",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "backprop", "--set", "lr"],
            "--set: must be NAME=VALUE, but got 'lr'",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "backprop", "--set", "l=1"],
            "--set.l: unknown field",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", VGG19],
            ": --num-blocks: must be given, as",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", VGG19, "--num-blocks", "2"],
            ": --decoupling: must be one of vgg11, but got 'vgg19'",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "backprop", "--relaxed"],
            "backprop: cannot be read",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", VGG19, "--relaxed"],
            "must be vgg11 with 8 layers, but got 'vgg19 with 16'",
        ),
        (
            [
                *("train", QUICKSTART, "--directory", "d", "--decoupling", VGG19),
                *("--relaxed", "--num-blocks", "2"),
            ],
            ": --num-blocks: must not be given with --relaxed, but got 2",
        ),
        (["describe"], ": --backbone: must be given, one of vgg11, "),
        (["describe", "--decoupling", VGG19], ": --num-blocks: must be given, as"),
        (
            ["describe", "--backbone", "vgg11", "--num-blocks", "2"],
            ": --num-blocks: must not be given for backprop, but got 2",
        ),
        (
            ["describe", "--decoupling", VGG19, "--num-blocks", "17"],
            ": --num-blocks: must be from 1 to the number of layers, 16, but got 17",
        ),
        (["test", "nowhere"], "cannot be read"),
        (["describe", "--backbone", "vgg12"], ": --backbone: must be one of"),
        (
            ["import-release", "nowhere.pt", "--backbone", "vgg19", "--output", "/dev/null/x"],
            "--output: must be a folder that can be written to (/dev/null: Not a directory)",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "2", "--output", "."],
            "--output: must be a file, but got '.'",
        ),
        (
            ["import-release", "nowhere.pt", "nowhere.pt", "--backbone", "vgg19"],
            "nowhere.pt: is not a file of tensors",
        ),
    ],
)
def test_wrong_input_is_one_line_with_exit_code_2_and_writes_nothing(
    arguments: list[str],
    message: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sedona(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("sedona-nni: ")
    assert captured.err.count("\n") == 1
    # NNI makes its folder as soon as it is asked for an experiment
    assert [path.name for path in elsewhere.iterdir() if path.name != "home"] == []


def test_an_output_that_knows_only_ascii(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"strategy": "uniform", "num_trials": 0, "num_failed": 1}]  # nothing known but dashes
    Path("table.json").write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setattr("sedona_nni.strategies.runner.supervise", lambda *_, **__: (1, elsewhere))
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    assert sedona(monkeypatch, "run", QUICKSTART) == 1
    printed.flush()
    lines = printed.buffer.getvalue().decode("ascii").splitlines()
    assert [" ".join(line.split()) for line in lines if "uniform" in line] == [
        "|uniform | |- |- |- |- |- |- |0 (1 failed) |"
    ]


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_directory_that_is_none_is_refused_before_anything_is_computed(
    command: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the experiment is read, which may measure times and write them there."""
    (elsewhere / "file").write_text("kept")
    rest = ["--decoupling", "backprop"] if command == "train" else []
    for directory in ("file", "file/below"):
        assert sedona(monkeypatch, command, "nowhere.yml", "--directory", directory, *rest) == 2
        line = capsys.readouterr().err
        assert line.startswith("sedona-nni: --directory: must be a folder")
        assert line.count("\n") == 1
    assert (elsewhere / "file").read_text() == "kept"


def test_a_full_disk_behind_the_standard_output() -> None:
    arguments = [sys.executable, "-m", "sedona_nni.command_line", "describe", "--backbone", "vgg11"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    line = "sedona-nni: standard output: cannot be written (No space left on device)\n"
    assert ended.stderr == line


def test_an_empty_file_of_a_release_is_one_line(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.zeros(15, 2), "good.pt")
    (elsewhere / "empty.pt").touch()
    (elsewhere / "text.pt").write_text("alpha")
    for name in ("empty.pt", "text.pt"):
        for files in ([name, "good.pt"], ["good.pt", name]):
            assert sedona(monkeypatch, "import-release", *files, "--backbone", "vgg19") == 2
            line = capsys.readouterr().err
            assert line.startswith(f"sedona-nni: {name}: is not a file of tensors")
            assert line.count("\n") == 1


def small_experiment(folder: Path) -> str:
    """Write the quickstart with fewer images and a narrower backbone."""
    experiment = (EXPERIMENTS / "quickstart.yml").read_text()
    small = experiment.replace(
        "dataset: digits", "dataset: digits, train_limit: 100, width_multiplier: 0.25"
    )
    (folder / "small.yml").write_text(small.replace(": ..", ": ."))
    return "small.yml"


def test_train_and_test(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PredSim's blocks, and their ensemble, which the release could not form."""
    train = ("train", small_experiment(elsewhere), "--directory", "trained")
    changes = ("--set", "epochs=2", "--set", "batch_size=16", "--set", "amp=no")
    multistep = ("--set", "schedule=multistep", "--set", "milestones=[1]", "--set", "lr=1e-2")
    changes += (*multistep, "--set", "classes_per_batch=null")
    chosen = ("--decoupling", "uniform:2:predsim")
    assert sedona(monkeypatch, *train, *chosen, *changes, "--json", "--device", "cpu") == 0
    captured = capsys.readouterr()
    trained = json.loads(captured.out)
    assert captured.err.startswith("digits: 10 classes (0, 1, 2, 3, 4, 5, and 4 more); images: ")
    assert re.findall(r"^epoch (\d) of 2, validation accuracy ", captured.err, re.M) == ["1", "2"]
    settings = json.loads(Path("trained/run.json").read_text())["settings"]
    assert (settings["milestones"], settings["lr"], settings["amp"]) == ([1], 0.01, "no")
    assert sedona(monkeypatch, "test", "trained", "--json", "--device", "cpu") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"] == tested["block_2_accuracy"]
    assert tested["same_data"] is True
    assert "test_ensemble_accuracy" not in tested
    assert sedona(monkeypatch, "test", "trained", "--ensemble", "2", "--json") == 0
    both = json.loads(capsys.readouterr().out)
    assert both["test_accuracy"] == tested["test_accuracy"]
    network = trained_network(Path("trained"))
    right = total = 0
    for images, labels in digits_test_part():
        with torch.no_grad():
            logits = network.classifier_logits(images)
        votes = sum(part.log_softmax(1) for part in logits)
        right += int((votes.argmax(1) == labels).sum())
        total += len(labels)
    assert both["test_ensemble_accuracy"] == pytest.approx(right / total)
    assert sedona(monkeypatch, "test", "trained", "--ensemble", "0") == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("milestones=[2", "--set: must have a VALUE as in YAML, but got 'milestones=[2'"),
        ("lr.x=1", "--set.lr.x: unknown field"),
        ("nowhere.x=1", "--set.nowhere.x: unknown field"),
        (
            "epochs=1e1",
            "--set.epochs: Input should be a valid integer, unable to parse string as an integer "
            "(YAML 1.1 takes 1e1 for a text; write 10), but got '1e1'",
        ),
        ("optimizer=no", "--set.optimizer: Input should be 'sgd'"),
    ],
)
def test_settings_that_are_wrong(
    setting: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = ("train", QUICKSTART, "--directory", "d", "--decoupling", "backprop")
    assert sedona(monkeypatch, *train, "--set", setting) == 2
    assert message in capsys.readouterr().err
    assert not Path("d").exists()


def test_a_tilde_is_the_home_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no shell has expanded it: in ``--option=~/x``, and in a file."""
    found = elsewhere / "home" / "found"
    found.mkdir(parents=True)
    assert sedona(monkeypatch, "describe", f"--decoupling={VGG19}", "--num-blocks", "2") == 0
    source = str(EXPERIMENTS / "published" / "vgg19.json")
    options = ("--num-blocks", "2", "--output=~/found/k2.json")
    assert sedona(monkeypatch, "discretise", source, *options) == 0
    assert sedona(monkeypatch, "describe", "--decoupling=~/found/k2.json") == 0
    capsys.readouterr()
    assert sedona(monkeypatch, "run", "~/nowhere.yml") == 2
    assert f"{elsewhere}/home/nowhere.yml: there is no such file" in capsys.readouterr().err
    assert not Path("~").exists()
    task = Task(dataset="imagefolder", data_dir="~/pictures")
    with pytest.raises(InputError, match=f"looked for .*{elsewhere}/home/pictures"):
        load_splits(task, 0.1)


def test_train_by_another_method(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", small_experiment(elsewhere), "--decoupling", "uniform:2:conv1")
    common = ("--set", "epochs=1", "--set", "batch_size=16", "--json", "--device", "cpu")
    sequential = ("--method", "sequential", "--directory", "sequential")
    assert sedona(monkeypatch, *train, *common, *sequential) == 0
    assert json.loads(capsys.readouterr().out)["best_epoch"] == 2  # the second block's first

    options = ("--set", "method.buffer=2", "--set", "method.order=round-robin")
    asynchronous = ("--method", "asynchronous", *options, "--directory", "asynchronous")
    assert sedona(monkeypatch, *train, *common, *asynchronous) == 0
    run = json.loads(Path("asynchronous/run.json").read_text())
    assert run["settings"]["method"] == {
        "name": "asynchronous",
        "buffer": 2,
        "max_draws": None,
        "order": "round-robin",
        "slow_block": None,
        "slowdown": 1.0,
    }
    capsys.readouterr()
    wrong = ("--set", "method.buffer=2", "--directory", "wrong")
    assert sedona(monkeypatch, *train, *common, *wrong) == 2
    assert "--set.method.buffer: unknown field" in capsys.readouterr().err
    twice = ("--method", "sequential", "--set", "method={name: greedy}", "--directory", "wrong")
    assert sedona(monkeypatch, *train, *common, *twice) == 2
    assert "--method: must not be given with --set method" in capsys.readouterr().err
    assert not Path("wrong").exists()


def trained_network(directory: Path) -> DecoupledNetwork:
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    network = build_decoupled(backbone, Decoupling.load(directory / "decoupling.json"))
    network.load_state_dict(load_file(directory / "model.safetensors"))
    return network.eval()


def digits_test_part() -> Iterator[Batch]:
    return evaluation_batches(load_splits(Task(), 0.1).test, 512, "cpu")


def test_train_the_relaxed_network(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SearchResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        alpha=[(0.0, 0.0)] * 7,
        beta=[[0.0]] * 7,
    )
    found.save(Path("found.json"))
    train = ("train", small_experiment(elsewhere), "--directory", "trained", "--relaxed")
    changes = ("--set", "epochs=1", "--set", "batch_size=16")
    assert sedona(monkeypatch, *train, "--decoupling", "found.json", *changes, "--json") == 0
    trained = json.loads(capsys.readouterr().out)
    assert SearchResult.load(Path("trained", "search-result.json")) == found
    assert sedona(monkeypatch, "test", "trained", "--json") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"]


@pytest.mark.parametrize(("blocks", "cuts"), [("4", [9, 10, 11]), ("0", [9, 10, 11, 12, 14])])
def test_train_a_published_decoupling(
    blocks: str, cuts: list[int], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Decoupling] = []

    def remember(task: Task, decoupling: Decoupling, *rest: object, **more: object) -> object:
        chosen.append(decoupling)
        return {}

    monkeypatch.setattr("sedona_nni.trials.train.run_training", remember)
    experiment = Path(small_experiment(elsewhere))
    experiment.write_text(experiment.read_text().replace("vgg11", "resnet50"))
    train = ("train", str(experiment), "--directory", "d", "--decoupling", RESNET50)
    assert sedona(monkeypatch, *train, "--num-blocks", blocks) == 0
    assert [decoupling.cuts for decoupling in chosen] == [cuts]


def test_data_sets(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, or one in full."""
    assert sedona(monkeypatch, "data", "--json", "--data-dir", str(elsewhere)) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert [*found] == dataset_names()
    assert [name for name, each in found.items() if each["is_there"]] == ["digits"]
    assert found["svhn"]["looked_for"] == f"train_32x32.mat and test_32x32.mat in {elsewhere}"
    assert sedona(monkeypatch, "data") == 0
    shown = capsys.readouterr().out
    assert "svhn: house numbers, 32 x 32 pixels, by default 32 pixels wide; needs a data" in shown
    assert "to get it: download http://ufldl.stanford.edu/housenumbers/train_32x32.mat" in shown

    for part, name, count in (("train", "cat", 5), ("train", "dog", 7), ("valid", "cat", 3)):
        folder = elsewhere / "pets" / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 9 * number).save(folder / f"{number}.png")
    (elsewhere / "pets" / "train" / "cat" / "notes.txt").touch()
    command = ("data", "imagefolder", "--data-dir", "pets")
    assert sedona(monkeypatch, *command, "--json") == 0
    contents = json.loads(capsys.readouterr().out)["contents"]
    assert contents["counts"] == {"train": [5, 6], "validation": [0, 1], "test": [3, 0]}
    assert contents["left_out"] == ["train/cat/notes.txt", "no dog in valid/"]
    assert sedona(monkeypatch, *command) == 0
    shown = capsys.readouterr().out
    assert "2 classes (cat, dog); images: 11 train (train/), 1 validate (of train/)" in shown
    assert " dog    6      1           0" in shown
    assert "left out: no dog in valid/" in shown


def test_describe_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet-152 as torchvision has it, and the shares of its published decoupling."""
    published = str(EXPERIMENTS / "published" / "resnet152.json")
    chosen = ("--decoupling", published, "--num-blocks", "4")
    form = ("--width-multiplier", "4", "--image-size", "224", "--num-classes", "1000")
    assert sedona(monkeypatch, "describe", "--backbone", "resnet152", *form, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["parameters"] == {
        "trunk": 60_192_808 - 2_049_000,
        "head": 2_049_000,
        "total": 60_192_808,
    }
    assert len(whole["layers"]) == 50
    assert len(whole["boundaries"]) == 49
    assert len(whole["blocks"]) == 1
    assert sedona(monkeypatch, "describe", *chosen, *form, "--json") == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["parameters"] == whole["parameters"]
    layers = [block["last_layer"] - block["first_layer"] + 1 for block in cut["blocks"]]
    assert layers == [11, 2, 4, 33]
    shares = torch.tensor([block["share"] for block in cut["blocks"]]).cumsum(0)
    assert shares[:3].tolist() == pytest.approx([0.233, 0.285, 0.361], abs=5e-4)
    assert cut["ideal_speedup"] == pytest.approx(1 / (1 - 0.361), abs=5e-3)


def test_describe_says_what_the_stem_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resnet = ("describe", "--backbone", "resnet18", "--image-size", "64")
    assert sedona(monkeypatch, *resnet) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1] == "stem: published, 7x7 convolution of stride 2"
    assert sedona(monkeypatch, *resnet, "--stem", "torchvision", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["stem"] == "torchvision, 7x7 convolution of stride 2, max-pool"
    assert described["layers"][0]["size"] == 16
    assert sedona(monkeypatch, "describe", "--backbone", "vgg11", "--stem", "torchvision") == 2
    assert "stem: must be published for vgg11, but got 'torchvision'" in capsys.readouterr().err


def test_describe_in_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    decoupling = Decoupling(backbone="vgg19", cuts=[5, 12, 13], aux=["conv4", "conv1", "conv1"])
    decoupling.save(Path("d.json"))
    chosen = (
        ["--decoupling", "d.json"],
        ["--backbone", "vgg19", "--decoupling", VGG19, "--num-blocks", "4"],
    )
    shown = []
    for options in chosen:
        assert sedona(monkeypatch, "describe", *options) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    lines = [line.split() for line in shown[0].splitlines()]
    for row in (
        "trunk 1,254,256 25,214,976",
        "head 1,191,946 1,189,888",
        "total 2,446,202 26,404,864",
        "8 conv4_1 128 4 73,984 1,179,648",
        "boundary: 16x32x32 32x16x16 64x8x8 128x4x4 128x2x2",
        "conv4 10.7k / 410.1k 16.5k / 277.2k 31.9k / 210.8k 78.2k / 177.6k 56.8k / 66.2k",
        "cut after layer 5 (conv4), 12 (conv1) and 13 (conv1)",
        "1 6-12 738,816 13,565,952 51.4% conv1 27,050 38,176",
        "3 14-15 1,487,370 2,369,536 9.0% (head) 0 0",
        "largest block: 51.4% of the MACs, so an ideal speed-up of 1.95 "
        "(1.94 with auxiliary networks)",
    ):
        assert row.split() in lines, row


def published() -> tuple[torch.Tensor, torch.Tensor]:
    """Values of the shape that the release has for VGG-19, cuts at 5, 12 and 13."""
    alpha = torch.stack([torch.linspace(-3, -2, 15), torch.linspace(3, 2, 15)], dim=1)
    alpha[[5, 12, 13]] = torch.tensor([2.0, -2.0])
    beta = torch.zeros(15, 4)
    beta[:, 0] = 1
    beta[5, 3] = 2
    return alpha, beta


def test_import_of_the_authors_files(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta = published()
    torch.save(torch.nn.Parameter(alpha), "alpha.pt")
    torch.save(beta, "beta.pt")
    both = {"alpha": alpha.tolist(), "beta": beta.tolist()}
    Path("both.json").write_text(json.dumps(both))
    expected = "cut after layer 5 (conv4), 12 (conv1) and 13 (conv1)\n"
    for files in (["alpha.pt", "beta.pt"], ["both.json"]):
        command = ["import-release", *files, "--backbone", "vgg19", "--num-blocks", "4"]
        assert sedona(monkeypatch, *command, "--output", "decoupling.json") == 0
        assert capsys.readouterr().out == expected
        assert sedona(monkeypatch, *command, "--json") == 0
        assert json.loads(capsys.readouterr().out)["cuts"] == [5, 12, 13]
        assert Decoupling.load(Path("decoupling.json")).aux == ["conv4", "conv1", "conv1"]
        everything = command[:-2]
        assert sedona(monkeypatch, *everything, "--output", "result.json") == 0
        assert "boundary 5: a_loc 0.9820\n" in capsys.readouterr().out
        assert SearchResult.load(Path("result.json")).alpha == [(a, b) for a, b in alpha.tolist()]
        assert sedona(monkeypatch, *everything, "--num-blocks", "0") == 0
        assert capsys.readouterr().out == expected


def test_import_runs_no_code_of_a_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_Trap(), "alpha.pt")
    torch.save(published()[1], "beta.pt")
    assert sedona(monkeypatch, "import-release", "alpha.pt", "beta.pt", "--backbone", "vgg19") == 2
    assert not Path("trapped").exists()


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("trapped"),)  # type: ignore[return-value]


def test_import_for_another_backbone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta = published()
    torch.save(alpha, "alpha.pt")
    torch.save(beta, "beta.pt")
    assert sedona(monkeypatch, "import-release", "alpha.pt", "beta.pt", "--backbone", "vgg11") == 2
    assert "alpha: must have a row per boundary of vgg11, but got 15" in capsys.readouterr().err


def test_the_command_starts_without_what_only_some_commands_need() -> None:
    blocked = "('nni', 'optuna', 'pytorch_lightning', 'torch')"
    code = (
        "import sys; import sedona_nni.command_line; "
        f"assert not [name for name in {blocked} if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXPERIMENTS.parent)


FOUND = {
    "format": "sedona-nni/search-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "alpha": [[float(i), 0.0] for i in range(7)],  # prefers cuts on top
    "beta": [[0.0, 1.0]] * 7,
}


@pytest.fixture
def found(elsewhere: Path) -> str:
    (elsewhere / "found.json").write_text(json.dumps(FOUND))
    return str(elsewhere / "found.json")


def discretised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> Any:
    assert sedona(monkeypatch, "discretise", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_discretise_within_a_bound(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bounded = ("--num-blocks", "2", "--max-block-share", "1.4/K", "--output", "d.json")
    shown = discretised(monkeypatch, capsys, found, *bounded)
    (chosen,) = shown["decouplings"]
    assert chosen["decoupling"]["cuts"] == [4]
    assert chosen["evidence"] == 4
    assert 0.58 < chosen["largest_share"] <= 0.7
    assert chosen["ideal_speedup"] == 1 / chosen["largest_share"]
    assert (shown["undecided_share"], shown["compute"]) == (1 / 7, "macs")
    assert Decoupling.load(Path("d.json")).model_dump() == chosen["decoupling"]

    free = discretised(monkeypatch, capsys, found, "--num-blocks", "2")
    assert free["decouplings"][0]["decoupling"]["cuts"] == [6]


def test_the_front_in_a_table(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sedona(monkeypatch, "discretise", found, "--num-blocks", "2", "--pareto") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "cut after" in line]
    assert [row[3] for row in rows] == ["6", "5", "4", "3"]
    assert [float(row[5]) for row in rows] == [6, 5, 4, 3]
    speedups = [float(row[7]) for row in rows]
    assert speedups == sorted(speedups)
    assert lines[-1] == "1 of 7 boundaries are undecided: a_loc is within 0.01 of 0.5"


def test_leaders_in_their_order(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = discretised(monkeypatch, capsys, found, "--num-blocks", "2", "--leaders", "3")
    assert [each["decoupling"]["cuts"] for each in shown["decouplings"]] == [[6], [5], [4]]
    evidence = [each["evidence"] for each in shown["decouplings"]]
    assert evidence == sorted(evidence, reverse=True)


def test_measured_times_are_reused_from_what_was_derived_with_them(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--num-blocks", "3", "--max-block-share", "1", "--width-multiplier", "0.0625")
    timed = (*small, "--device", "cpu", "--batch-size", "2")
    monkeypatch.setattr(
        "sedona_nni.decouplings.bounds.allowed_share", lambda share, num_blocks: Fraction(9)
    )
    first = discretised(
        monkeypatch, capsys, found, *timed, "--compute", "time", "--output", "d.json"
    )
    assert first["compute"]["provenance"]["batch_size"] == 2
    again = discretised(monkeypatch, capsys, found, *small, "--compute", "d.json")
    assert again == first


PROBED = {
    "format": "sedona-nni/probe-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "losses": [[2.0, 2.1]] * 6 + [[1.2, 1.1]],  # prefers a cut on top
    "undivided": 2.0,
}


def test_probing_and_its_compromises(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def run_search(*arguments: Any, train: Any, **_: Any) -> dict[str, Any]:
        asked.extend([*arguments, train])
        return {"search_result": PROBED, "trainings": 2.468}

    monkeypatch.setattr("sedona_nni.trials.search.run_search", run_search)
    probe = ("search", str(EXPERIMENTS / "probe_digits.yml"), "--directory", "d", "--device", "cpu")
    assert sedona(monkeypatch, *probe) == 0
    out = capsys.readouterr().out
    assert "3 blocks: cut after layer" in out
    assert "probing cost as much as 2.47 trainings, by MACs" in out
    assert "undecided" not in out
    assert asked[0] == "probe"
    assert [type(each) for each in asked[1:]] == [Task, ProbeSettings, TrainSettings]
    assert sedona(monkeypatch, *probe, "--json") == 0
    assert "undecided_share" not in json.loads(capsys.readouterr().out)

    shown = discretised(
        monkeypatch, capsys, "d/search-result.json", "--num-blocks", "2", "--pareto"
    )
    cuts = [each["decoupling"]["cuts"] for each in shown["decouplings"]]
    assert cuts[0] == [6]
    assert len(cuts) > 1
    assert "undecided_share" not in shown
    assert sedona(monkeypatch, "discretise", "d/search-result.json", "--num-blocks", "0") == 2
    assert "--num-blocks: must be at least 1 for a search that tells" in capsys.readouterr().err


def test_search_and_train_keep_to_the_bound(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sedona_nni.trials.search.run_search", lambda *_, **__: {"search_result": FOUND}
    )
    bounded = ("--directory", "d", "--max-block-share", "1.5/K", "--device", "cpu")
    assert sedona(monkeypatch, "search", QUICKSTART, *bounded) == 0
    out = capsys.readouterr().out
    assert "1 of 7 boundaries are undecided" in out
    assert sedona(monkeypatch, "search", QUICKSTART, *bounded, "--json") == 0
    assert json.loads(capsys.readouterr().out)["undecided_share"] == 1 / 7
    searched = Decoupling.load(Path("d", "decoupling-k3.json"))
    assert {path.name for path in Path("d").iterdir()} == {
        "search-result.json",
        "decoupling-k3.json",
    }
    assert searched.cuts != [5, 6] == discretise(SearchResult.load(Path(found)), 3).cuts
    assert searched.provenance["max_block_share"] == "1.5/K"

    trained: list[Decoupling] = []

    def run_training(task: object, decoupling: Decoupling, *_: object, **__: object) -> dict:  # type: ignore[type-arg]
        trained.append(decoupling)
        return {}

    monkeypatch.setattr("sedona_nni.trials.train.run_training", run_training)
    derived = (*bounded, "--decoupling", found, "--num-blocks", "3")
    assert sedona(monkeypatch, "train", QUICKSTART, *derived) == 0
    assert trained == [searched]
    assert sedona(monkeypatch, "train", QUICKSTART, *bounded, "--decoupling", "backprop") == 0
    assert sedona(monkeypatch, "train", QUICKSTART, *bounded, "--decoupling", "every:6:cnn") == 2
    assert "decoupling: must respect max_block_share 1.5/K, but" in capsys.readouterr().err
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["discretise", VGG19, "--num-blocks", "4", "--max-block-share", "0.2"],
            "--max-block-share: must be at least 0.2926 for 4 blocks of vgg19, but got '0.2'",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "4", "--max-block-share", "40%"],
            "--max-block-share: must be a share above 0 and up to 1, e.g. 0.4, or a multiple of "
            "1/K, e.g. 1.3/K, but got '40%'",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "0", "--pareto"],
            "--num-blocks: must be from 1 to the number of layers, 16, but got 0",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "4", "--pareto", "--output", "d.json"],
            "--output: must not be given with --pareto, but got 'd.json'",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "4", "--leaders", "2", "--output", "d.json"],
            "--output: must not be given with --leaders, but got 'd.json'",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "4", "--leaders", "2", "--pareto"],
            "--leaders: must not be given with --pareto, but got 2",
        ),
        (
            ["discretise", VGG19, "--num-blocks", "4", "--compute", "nowhere.json"],
            "nowhere.json: cannot be read",
        ),
        (
            ["search", QUICKSTART, "--directory", "d", "--max-block-share", "0.3"],
            "--max-block-share: must be at least 0.4114 for 3 blocks of vgg11 with mlp-sr",
        ),
        (
            [
                *("train", QUICKSTART, "--directory", "d", "--decoupling", RESNET50),
                *("--relaxed", "--max-block-share", "0.5"),
            ],
            "--max-block-share: must not be given with --relaxed, but got '0.5'",
        ),
    ],
)
def test_bounds_that_are_refused(
    arguments: list[str],
    message: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sedona(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith(f"sedona-nni: {message}")
    assert not list(elsewhere.iterdir())
