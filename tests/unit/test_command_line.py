"""`sedona_nni.command_line`: what needs no NNI manager."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sedona_nni import command_line

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICKSTART = str(EXPERIMENTS / "quickstart.yml")


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


COMMANDS = ("run", "resume", "report", "search", "train", "test", "describe", "import-release")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sedona(monkeypatch, command, "--help") == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yml"], "nowhere.yml: there is no such file"),
        (["report", "unknown"], "experiment unknown: NNI knows no such experiment"),
        (["resume", "unknown"], "experiment unknown: NNI knows no such experiment"),
        (["search", "nowhere.yml", "--directory", "d"], "nowhere.yml: there is no such file"),
        (
            ["search", str(EXPERIMENTS / "random_digits.yml"), "--directory", "d"],
            "must be an experiment of the SedonaTuner",
        ),
        (
            ["search", QUICKSTART, "--directory", "d", "--device", "tpu"],
            "device: must be auto, cpu or cuda, but got 'tpu'",
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
        (["test", "nowhere"], "cannot be read"),
        (["describe", "--backbone", "vgg12"], "backbone: must be one of"),
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


def test_train_and_test(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = (EXPERIMENTS / "quickstart.yml").read_text()
    small = experiment.replace(
        "dataset: digits", "dataset: digits, train_limit: 200, width_multiplier: 0.25"
    )
    (elsewhere / "small.yml").write_text(small.replace(": ..", ": ."))
    train = ("train", "small.yml", "--directory", "trained", "--decoupling", "uniform:2:cnn")
    changes = ("--set", "epochs=2", "--set", "batch_size=16")
    assert sedona(monkeypatch, *train, *changes, "--json", "--device", "cpu") == 0
    captured = capsys.readouterr()
    trained = json.loads(captured.out)
    assert captured.err.count("block_2_accuracy") == 2  # a line per epoch
    assert sedona(monkeypatch, "test", "trained", "--json", "--device", "cpu") == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["test_accuracy"] == trained["test_accuracy"]


def test_describe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert sedona(monkeypatch, "describe", "--backbone", "vgg19", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 16
    chosen = ("--decoupling", "uniform:4:mlp-sr")
    assert sedona(monkeypatch, "describe", "--backbone", "vgg19", *chosen) == 0
    shown = capsys.readouterr().out
    assert "cut after layer 3 (mlp-sr), 7 (mlp-sr) and 11 (mlp-sr)" in shown
    assert "4-7" in shown


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
        assert sedona(monkeypatch, *command, "--output", "result.json") == 0
        assert capsys.readouterr().out == expected
        assert sedona(monkeypatch, *command, "--json") == 0
        assert json.loads(capsys.readouterr().out)["cuts"] == [5, 12, 13]
    assert json.loads(Path("result.json").read_text())["aux_choices"][3] == "conv4"


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
