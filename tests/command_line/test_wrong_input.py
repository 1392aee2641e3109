"""Wrong input: one line, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shell import EXPERIMENTS, QUICKSTART, RESNET50, VGG19, sedona


def test_an_error_in_a_file_is_not_taken_for_one_of_an_option(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (EXPERIMENTS / "quickstart.yml").read_text().replace("num_blocks: 3", "num_blocks: 99")
    Path("wrong.yml").write_text(text.replace(": ..", ": ."))
    arguments = ("--directory", "d", "--decoupling", VGG19, "--num-blocks", "3")
    assert sedona(monkeypatch, "train", "wrong.yml", *arguments) == 2
    assert "wrong.yml: num_blocks: must be from 1 to" in capsys.readouterr().err


def test_weights_that_are_none_begin_nothing(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``data_dir`` and ``weights`` are relative to the folder of the experiment's trials."""
    text = (EXPERIMENTS / "quickstart.yml").read_text().replace(": ..", ": .")
    Path("own.yml").write_text(text.replace("dataset: digits", "dataset: digits, weights: w.pt"))
    Path("w.pt").write_bytes(b"no weights")
    before = {*elsewhere.iterdir()}
    for command in (["run"], ["search", "--directory", "d"]):
        assert sedona(monkeypatch, command[0], "own.yml", *command[1:]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"own.yml: weights: {elsewhere / 'w.pt'}: is not a file of tensors" in line
    assert {*elsewhere.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "No such command ''; `sedona-nni --help` shows what there is"),
        (["--nothing"], "No such option: --nothing; `sedona-nni --help` shows"),
        (["run"], "Missing argument 'EXPERIMENT'; `sedona-nni run --help` shows what there is"),
        (["list", "x"], "Got unexpected extra argument"),
        (
            ["describe", "--nothing"],
            "No such option: --nothing; `sedona-nni describe",
        ),
        (["describe", "--batch-size"], "Option '--batch-size' requires an argument; `sedona"),
        (["describe", "--batch-size", "1"], "--batch-size: "),
        (["describe", "--batch-size", "b"], ", but got 'b'"),
        (["describe", "--backbone", "\x1b[31m\n"], "but got '\\x1b[31m\\n'"),
        (["describe", "--backbone", "x" * 9999], "xxx ... xxx"),
        (["run", "nowhere.yml"], "nowhere.yml: there is no such file"),
        (["data", "mnist"], "dataset: must be one of digits, fashion-mnist, cifar10, "),
        (
            ["data", "svhn", "--data-dir", "d"],
            ": --data-dir: svhn is missing or damaged; looked ",
        ),
        (["report", "/dev/null"], "/dev/null: cannot be opened (is a pipe, a socket or a device)"),
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
            "random_digits.yml: must be an experiment that searches",
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
            "--decoupling: num_blocks: must be from 1 to the number of layers, 8, but got 9",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "every:9:cnn"],
            "--decoupling: block_size: must be from 1 to the number of layers, 8, but got 9",
        ),
        (
            ["train", QUICKSTART, "--directory", "d", "--decoupling", "uniform:2:cnm"],
            "--decoupling: aux: must be one of",
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
            [
                *("describe", "--backbone", "vgg19", "--num-classes", "1"),
                *("--decoupling", "balanced:2:conv1"),
            ],
            "sedona-nni: --num-classes: must be at least 2, but got 1",
        ),
        (["describe", "--decoupling", ""], ": --decoupling: must be a file, a published one or"),
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
    assert len(captured.err) < 2100
    # NNI makes its folder as soon as it is asked for an experiment
    assert [path.name for path in elsewhere.iterdir() if path.name != "home"] == []


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


@pytest.mark.slow(reason="every command imports PyTorch")
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
            ["discretise", VGG19, "--num-blocks", "4", "--max-block-memory", "much"],
            "--max-block-memory: must be MiB above 0, e.g. 512, or a multiple of 1/K, e.g. 1.3/K, "
            "but got 'much'",
        ),
        (
            ["search", QUICKSTART, "--directory", "d", "--max-block-memory", "0.3"],
            "--max-block-memory: must be at least ",
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
