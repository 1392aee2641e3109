"""Records: what they say, and that they are made of a commit on an idle machine or say so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.__main__ import main
from benchmarks.view import Table
from sedona_nni.errors import InputError

ROOT = Path(__file__).parents[2]
QUICK = "relaxed-step --backbone vgg11 --batch-size 2 --width-multiplier 0.125 --aux conv1 "
QUICK += "--repeats 1 --threads 1 --json"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a commit, without changes, in the place of the project's."""
    root = tmp_path / "checkout"
    (root / "benchmarks" / "records").mkdir(parents=True)
    (root / "code.py").write_text("x = 1\n")
    for command in ("init -q", "add .", "commit -q -m first"):
        git(root, command)
    monkeypatch.setattr(record, "ROOT", root)
    monkeypatch.setattr(record, "RECORDS", root / "benchmarks" / "records")
    return root


def git(root: Path, command: str) -> str:
    named = ["-c", "user.name=A", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *named, *command.split()], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has nothing else to do; where tests run that is not so."""
    monkeypatch.setattr(record.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(record, "other_work", tuple)


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.kill()


def run(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


class TestFiles:
    def test_what_they_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks", "meta-step", "--aux", "a b"])
        head = record.header(n=4, gpu="H100").model_copy(update={"commit": "abc", "dirty": True})
        table = Table("times, s", ["side", "median"], [["ours", "1.0"]])
        record.publish(
            head, {"ours": 1.0}, [table], as_json=True, record="vgg19_cpu", directory=tmp_path
        )
        document = json.loads((tmp_path / "vgg19_cpu.json").read_text())
        assert document["ours"] == 1.0
        assert record.Header.model_validate(document["header"]) == head
        text = (tmp_path / "vgg19_cpu.md").read_text()
        assert "    python -m benchmarks meta-step --aux 'a b'\n" in text
        assert "Commit: abc with uncommitted changes" in text
        assert "- **Doubts**: the checkout had changes in no commit" in text
        assert "H100" in text
        assert "| side | median |\n| --- | ---: |\n| ours | 1.0 |\n" in text

    def test_commit_is_that_of_the_checkout(self, checkout: Path) -> None:
        head = record.header(n=1)
        assert (head.commit, head.dirty) == (git(checkout, "rev-parse HEAD"), False)

    def test_without_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        head = record.header(n=1)
        assert (head.commit, head.dirty) == (None, None)
        assert head.doubts["dirty"] == "without git nobody knows what code was run"

    def test_those_kept_so_far_are_readable_and_own_up(self) -> None:
        paths = list(record.RECORDS.glob("*.json"))
        assert len(paths) > 10
        for path in paths:
            head = record.Header.model_validate(json.loads(path.read_text())["header"])
            text = path.with_suffix(".md").read_text()
            note = f"- **Doubts**: {'; '.join(head.doubts.values())}\n"
            assert (note in text) if head.doubts else ("**Doubts**" not in text), path.name


@pytest.mark.usefixtures("idle")
class TestOfACommit:
    """A record is made of a commit."""

    @pytest.mark.slow(reason="a process of its own measures")
    def test_a_clean_checkout_makes_a_record(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (checkout / "benchmarks" / "records" / "earlier.md").write_text("another record")
        assert run(monkeypatch, f"{QUICK} --record quick") == 0
        path = checkout / "benchmarks" / "records" / "quick.json"
        head = record.Header.model_validate(json.loads(path.read_text())["header"])
        assert (head.dirty, head.machine.busy_with, head.doubts) == (False, (), {})
        assert "Doubts" not in path.with_suffix(".md").read_text()

    @pytest.mark.parametrize("change", ["changed", "added", "staged"])
    def test_a_dirty_checkout_is_refused_before_anything_is_measured(
        self,
        change: str,
        checkout: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (checkout / ("new.py" if change == "added" else "code.py")).write_text("x = 2\n")
        if change == "staged":
            git(checkout, "add code.py")

        def measured(*arguments: object, **options: object) -> None:
            raise AssertionError

        monkeypatch.setattr("benchmarks.side_by_side.compare", measured)
        assert run(monkeypatch, f"{QUICK} --record quick") == 2
        error = capsys.readouterr().err
        assert error == (
            "benchmarks: --record: the checkout had changes in no commit, which nobody can repeat; "
            "to record it nevertheless, with a note: --despite dirty\n"
        )
        assert run(monkeypatch, f"{QUICK} --record quick --despite busy") == 2
        assert not list((checkout / "benchmarks" / "records").iterdir())

    def test_upon_request_it_is_recorded_and_said(self, checkout: Path) -> None:
        (checkout / "code.py").write_text("x = 2\n")
        head = record.begin("quick", "dirty", n=1)
        record.publish(head, {}, [], as_json=True, record="quick")
        kept = checkout / "benchmarks" / "records" / "quick.json"
        assert json.loads(kept.read_text())["header"]["dirty"] is True
        assert "- **Doubts**: the checkout had changes" in kept.with_suffix(".md").read_text()

    def test_without_a_commit_it_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(record, "ROOT", tmp_path)
        with pytest.raises(InputError, match=r"without git nobody knows .*: --despite dirty$"):
            record.begin("quick", None, n=1)

    def test_what_is_not_recorded_may_be_of_anything(self, checkout: Path) -> None:
        (checkout / "code.py").write_text("x = 2\n")
        assert record.begin(None, None, n=1).dirty is True


class TestIdle:
    """A record is made on a machine that has nothing else to do."""

    @pytest.mark.parametrize(
        ("load", "cores", "is_busy"), [(0.5, 2, False), (0.51, 2, True), (3.9, 16, False)]
    )
    def test_by_load(self, load: float, cores: int, is_busy: bool) -> None:
        machine = record.header(n=1).machine
        assert machine.busy_with is None
        changed = machine.model_copy(update={"load": load, "cores": cores})
        assert changed.is_busy == is_busy

    def test_by_what_runs(self, busy_process: subprocess.Popen[bytes]) -> None:
        name = Path(f"/proc/{busy_process.pid}/comm").read_text().strip()
        for _ in range(20):  # where others want the cores, too, it may wait for its turn
            if found := [each for each in record.other_work(0.5) if each.startswith(name)]:
                break
        assert found
        assert found[0].endswith(" %") or found[0].endswith("%")
        machine = record.header(n=1).machine.model_copy(update={"load": 0.0})
        assert machine.model_copy(update={"busy_with": tuple(found)}).is_busy

    @pytest.mark.usefixtures("checkout")
    def test_a_busy_machine_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(record.os, "getloadavg", lambda: (3.0, 0.1, 0.1))
        monkeypatch.setattr(record, "other_work", lambda: ("cc1 97%",))
        monkeypatch.setattr(record.os, "sched_getaffinity", lambda _: {0, 1})
        assert run(monkeypatch, f"{QUICK} --record quick --despite dirty") == 2
        assert capsys.readouterr().err == (
            "benchmarks: --record: the machine did other work (load 3 on 2 cores, cc1 97%), so "
            "times are rough; to record it nevertheless, with a note: --despite busy\n"
        )
        head = record.begin("quick", "dirty,busy", n=1)
        assert head.machine.busy_with == ("cc1 97%",)
        assert list(head.doubts) == ["busy"]

    @pytest.mark.slow(reason="measures")
    def test_both_doubts_are_named_at_once(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (checkout / "code.py").write_text("x = 2\n")
        monkeypatch.setattr(record.os, "getloadavg", lambda: (99.0, 0.1, 0.1))
        with pytest.raises(InputError, match=r"no commit.*other work.*: --despite dirty,busy$"):
            record.begin("quick", None, n=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--record No", "--record: must be lower-case letters"),
        ("--record a --despite rain", "--despite: must be dirty, busy or both by a comma"),
        ("--despite rain", "--despite: must be dirty, busy or both by a comma"),
    ],
)
def test_wrong_input(
    options: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, f"{QUICK} {options}") == 2
    assert message in capsys.readouterr().err


def test_a_narrow_terminal_loses_no_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    headings = ["what was done", *(f"column {n}" for n in range(6))]
    Table("Six", headings, [["one thing", *(f"{n}.5" for n in range(6))]]).show()
    row = next(line for line in capsys.readouterr().out.splitlines() if "5.5" in line)
    assert row.split() == ["one", "0.5", "1.5", "2.5", "3.5", "4.5", "5.5"]
