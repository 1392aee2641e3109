"""`sedona_nni.command_line`: help, version, terminals, and what it imports."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell import EXPERIMENTS, QUICKSTART, VGG19, sedona

import sedona_nni
from sedona_nni.command_line.entry import main
from sedona_nni.command_line.tables import show_table
from sedona_nni.command_line.telling import show_numbers
from sedona_nni.data.sets import load_splits
from sedona_nni.errors import InputError
from sedona_nni.task import Task

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


@pytest.mark.slow(reason="every command imports PyTorch")
def test_a_full_disk_behind_the_standard_output() -> None:
    arguments = [sys.executable, "-m", "sedona_nni.command_line", "describe", "--backbone", "vgg11"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    line = "sedona-nni: standard output: cannot be written (No space left on device)\n"
    assert ended.stderr == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "sedona-nni: Cannot allocate memory\n"),
        # What an import makes of it
        (
            SystemError("error return without exception set"),
            "sedona-nni: Cannot allocate memory\n",
        ),
        (OSError(errno.EMFILE, "at a file"), "sedona-nni: Too many open files\n"),
    ],
)
def test_what_there_is_no_more_of_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sedona_nni.command_line.entry.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (2, line)


@pytest.mark.slow(reason="every command imports PyTorch")
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


def test_the_command_starts_without_what_only_some_commands_need() -> None:
    blocked = "('nni', 'optuna', 'pytorch_lightning', 'torch')"
    code = (
        "import sys; import sedona_nni.command_line; "
        f"assert not [name for name in {blocked} if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXPERIMENTS.parent)


def test_names_in_tables_are_no_markup_and_steer_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(["experiment", "decoupling"], [["[/bold]", "[red]x[/x]\x1b[31m\n\u202e"]])
    shown = capsys.readouterr().out
    assert "[/bold]" in shown
    assert r"[red]x[/x]\x1b[31m\n\u202e" in shown


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    show_numbers({"test_loss": math.nan, "ranks": [{"x": math.inf, "y": 1}]}, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"test_loss": None, "ranks": [{"x": None, "y": 1}]}
