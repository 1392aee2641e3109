"""What follows from ``benchmarks/data``: built by a command, not stored, as the documents say."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.derived import DERIVATIONS, DIRECTORY, DOCUMENTS, derive, filled
from benchmarks.record import RECORDS, ROOT
from benchmarks.study.__main__ import main as main_of_study
from benchmarks.tabular.__main__ import main as main_of_tabular
from benchmarks.teachers.__main__ import main as main_of_teachers
from sedona_nni.errors import InputError

STUDY = ROOT / "docs" / "study.md"


@functools.cache
def built(name: str) -> dict[str, Any]:
    """Return all values of a derivation."""
    return DERIVATIONS[name].build().results


def shown(document: Path, heading: str) -> list[list[str]]:
    """Return the rows of the one table of a document whose header begins so, without emphasis."""
    blocks = re.findall(r"(?:^\|.*\n)+", document.read_text(encoding="utf-8"), re.MULTILINE)
    (block,) = [each for each in blocks if each.startswith(heading)]
    return [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in block.splitlines()[2:]
    ]


@pytest.mark.slow(reason="plays strategies, hundreds of times each")
@pytest.mark.timeout(3600)  # minutes, where nothing else is computed
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_documents_are_what_the_data_says(document: Path) -> None:
    """If not: python -m benchmarks derive --write."""
    text = document.read_text(encoding="utf-8")
    assert filled(text) == text


def test_a_mark_is_filled() -> None:
    text = "A\n<!-- derived: study -->\nold\n<!-- end of derived -->\nB\n"
    new = filled(text)
    assert new == filled(new)
    assert new.startswith("A\n<!-- derived: study -->\n\n    python -m benchmarks.study show ")
    assert new.endswith("|\n\n<!-- end of derived -->\nB\n")
    assert "old" not in new
    second = filled(text.replace("study -->", "study 2 -->"))
    assert DERIVATIONS["study"].build().tables[1].markdown() in second
    with pytest.raises(InputError, match=r"derived: must be of tables, .*, but got 'luck'"):
        filled(text.replace("study", "luck"))


class TestStudy:
    """Tables of the study, worked out from the data."""

    @pytest.mark.slow(reason="measures")
    def test_study(self) -> None:
        picks = {(p["net"], p["space"], p["strategy"]): p for p in built("study")["picks"]}
        places = list(dict.fromkeys((net, space) for net, space, _ in picks))
        places.sort(key=lambda place: "resnet18" in place[0])  # VGG-13 stands first
        wide = [rows for rows in tables_of(STUDY) if len(rows[0]) == 1 + len(places)]
        for rows, text in zip(wide, (mean_and_sd, single), strict=True):
            for name, *cells in rows:
                strategy = strategy_of(name)
                assert cells == [text(picks[(*place, strategy)]) for place in places], name
            assert len(rows) == 8

    def test_differences_of_the_study(self) -> None:
        found = {
            (each["measure"], each["strategy"], each["net"]): each
            for each in built("study")["comparisons"]
            if each["reference"] == "probe" and each["space"] is None
        }
        rows = shown(STUDY, "| | both: picks |")
        for name, *cells in rows:
            expected = [
                interval(found[measure, strategy_of(name), net])
                for net in (None, "vgg13 x 0.5", "resnet18 x 0.25")
                for measure in ("pick", "training")
            ]
            assert cells == expected, name
        assert len(rows) == 7


def tables_of(document: Path) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\n)+", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
        for block in blocks
    ]


def strategy_of(name: str) -> str:
    return "backprop" if "back-propagation" in name else name.strip("`")


def mean_and_sd(pick: dict[str, Any]) -> str:
    values = [100 * each for each in pick["test_accuracies"]]
    return f"{fmean(values):.1f} ± {stdev(values):.1f}"


def single(pick: dict[str, Any]) -> str:
    return f"{100 * pick['single_training']:.1f}"


def interval(compared: dict[str, Any]) -> str:
    mean, low, high = (100 * compared[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


class TestDerive:
    def test_files_say_what_they_are_made_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["benchmarks", "derive", "study", "--directory", str(tmp_path)]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        assert capsys.readouterr().out == f"{tmp_path / 'study.md'}\n"
        assert {path.name for path in tmp_path.iterdir()} == {
            "study.json",
            "study.md",
        }
        document = json.loads((tmp_path / "study.json").read_text())
        command = DERIVATIONS["study"].command
        assert document.pop("command") == command
        made_of = document.pop("made_of")
        assert [*made_of] == ["benchmarks/data/study.json"]
        for path, digest in made_of.items():
            assert digest == hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        assert document == json.loads(json.dumps(built("study")))
        text = (tmp_path / "study.md").read_text(encoding="utf-8")
        assert text.startswith(f"# study\n\n    {command}\n\n")

    @pytest.mark.fast_cases(2)
    @pytest.mark.parametrize(
        "name",
        [
            "tables",
            "vgg11_fashion_mnist-judge",
            "vgg11_fashion_mnist-contest-bound",
            "vgg11_fashion_mnist-ablate-whole",
            "study-two-leaders",
        ],
    )
    def test_its_command_shows_the_same(
        self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(ROOT)
        python, option, package, *words = shlex.split(DERIVATIONS[name].command)
        assert (python, option) == ("python", "-m")
        named = [  # as a shell would
            str(path.relative_to(ROOT))
            for word in words
            for path in (sorted(ROOT.glob(word)) if "*" in word else [ROOT / word])
        ]
        monkeypatch.setattr("sys.argv", [package, *named, "--json"])
        run = {
            "benchmarks.tabular": main_of_tabular,
            "benchmarks.teachers": main_of_teachers,
            "benchmarks.study": main_of_study,
        }[package]
        with pytest.raises(SystemExit) as ended:
            run()
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(built(name)))

    def test_a_name_that_is_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["benchmarks", "derive", "tables", "k9"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "names: must be of tables, " in capsys.readouterr().err

    def test_nothing_that_can_be_derived_is_stored(self) -> None:
        assert not {path.stem for path in RECORDS.iterdir()} & set(DERIVATIONS)
        ignored = ["git", "check-ignore", "--no-index", str(DIRECTORY / "study.json")]
        if (ROOT / ".git").exists():
            assert subprocess.run(ignored, cwd=ROOT, capture_output=True).returncode == 0

    def test_all_data_is_used(self) -> None:
        """No file lies there that says nothing."""
        files = {path for each in DERIVATIONS.values() for path in each.files}
        used = {path for path in files if path.is_relative_to("benchmarks/data")}
        there = {path.relative_to(ROOT) for path in (ROOT / "benchmarks/data").rglob("*.json*")}
        assert used == there


def test_derive_returns_what_is_to_be_read(tmp_path: Path) -> None:
    assert derive("study-two-leaders", tmp_path) == tmp_path / "study-two-leaders.md"
