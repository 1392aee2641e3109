"""What follows from ``benchmarks/data``: built by a command, not stored, as the documents say."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.derived import DERIVATIONS, DIRECTORY, derive
from benchmarks.record import RECORDS, ROOT
from benchmarks.study.__main__ import main as main_of_study
from benchmarks.tabular.__main__ import main as main_of_tabular
from benchmarks.tabular.table import Table
from sedona_nni.decouplings.decoupling import Decoupling

BENCHMARK = ROOT / "docs" / "benchmark.md"
STUDY = ROOT / "docs" / "study.md"
NETS = ("tabular", "tabular-resnet18")  # VGG-11's derivations and ResNet-18's
HELD_OUT = ("tabular-held-out", "tabular-held-out-resnet18")


@functools.cache
def built(name: str) -> dict[str, Any]:
    """Return all values of a derivation."""
    return DERIVATIONS[name].build().results


@functools.cache
def table_of(prefix: str) -> Table:
    return Table.load(ROOT / DERIVATIONS[f"{prefix}-k2"].source)


def shown(document: Path, heading: str) -> list[list[str]]:
    """Return the rows of the one table of a document whose header begins so, without emphasis."""
    blocks = re.findall(r"(?:^\|.*\n)+", document.read_text(encoding="utf-8"), re.MULTILINE)
    (block,) = [each for each in blocks if each.startswith(heading)]
    return [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in block.splitlines()[2:]
    ]


class TestTables:
    """Tables of the documents, worked out from the data."""

    def test_what_they_cover(self) -> None:
        rows = {row[0].partition(":")[0]: row[1:] for row in shown(BENCHMARK, "| | [VGG-11]")}
        for place, prefix in enumerate(NETS):
            table = table_of(prefix)
            assert rows["width multiplier"][place] == str(table.task.width_multiplier)
            for k in (1, 2):
                seeds = {len(table[each].trainings) for each in table.decouplings(k)}
                assert {rows[f"K = {k}"][place]} == {f"{number} seeds" for number in seeds}
            k = 3 + place
            sampled = table.decouplings(k)
            assert rows["K = 3 or 4"][place].startswith(f"{len(sampled)} of ")
            assert {len(table[each].trainings) for each in sampled} == {2}

    def test_what_they_say(self) -> None:
        columns = []
        for prefix in NETS:
            found, table = built(f"{prefix}-k2"), table_of(prefix)
            by_truth = sorted(table.decouplings(2), key=table.truth)
            within = table.decouplings(2, "1.3/K")
            assert len(within) == 8
            (plain,) = table.decouplings(1)
            columns.append(
                [
                    at(table, by_truth[-1]),
                    at(table, by_truth[0]),
                    f"{table.truth(plain):.1%}",
                    f"{max(map(table.truth, within)):.1%}",
                    f"{found['seed_correlation']['test_accuracy']:.2f}",
                    f"{found['error_of_difference']:.1%}",
                    f"{found['within_two_errors_of_the_best']} of {len(by_truth)}",
                ]
            )
        rows = [[each.replace(" %", "%") for each in row[1:]] for row in shown(BENCHMARK, "| K = ")]
        assert rows == [list(row) for row in zip(*columns, strict=True)]

    @pytest.mark.parametrize("name", ["tabular-k3", "tabular-resnet18-k4"])
    def test_cuts_add_up(self, name: str) -> None:
        found = built(name)
        text = " ".join(BENCHMARK.read_text(encoding="utf-8").split())
        said = re.search(
            r"about a decoupling of (\S+) for K = 3 in VGG-11 and of (\S+) for K = 4 in ResNet-18, "
            r"where two seeds agree to (\S+) and (\S+)\. ",
            text,
        )
        assert said is not None
        place = ["tabular-k3", "tabular-resnet18-k4"].index(name)
        assert f"{found['correlation_with_sum_of_cuts']:.2f}" == said[1 + place]
        assert f"{found['seed_correlation']['test_accuracy']:.2f}" == said[3 + place]

    @pytest.mark.slow(reason="measures")
    def test_probing(self) -> None:
        columns = []
        for number, prefix in enumerate(NETS):
            free, bound = built(f"{prefix}-probing"), built(f"{prefix}-probing-bound")
            sampled = built(f"{prefix}-probing-k{3 + number}")
            columns.append(
                [
                    *(ranks(free), mean_rank(free), correlation(free)),
                    *(ranks(bound), mean_rank(bound), correlation(bound), correlation(sampled)),
                ]
            )
        rows = shown(BENCHMARK, "| eight probings each |")
        assert without_strategies(rows) == [list(row) for row in zip(*columns, strict=True)]

    def test_what_each_part_of_probing_contributes(self) -> None:
        variants = [
            "local loss",
            "local loss, smoothed",
            "shortfall against the best",
            "and against the undivided",
            "the same, not smoothed",
            "the same, all layers below",
            "layers alone, nothing probed",
        ]
        expected = []
        for variant in variants:
            row = []
            for prefix, ending in zip(NETS, ("k3", "k4"), strict=True):
                for name in ("probing", "probing-bound"):
                    row.append(contribution(built(f"{prefix}-{name}"), variant))
                row.append(contribution(built(f"{prefix}-probing-{ending}"), variant).split()[0])
            if variant == "the same, all layers below":  # with one cut they are the block's
                row = [each if place in (2, 5) else "" for place, each in enumerate(row)]
            expected.append(row)
        assert [row[1:] for row in shown(BENCHMARK, "| evidence |")] == expected

    def test_whole_batches(self) -> None:
        text = " ".join(BENCHMARK.read_text(encoding="utf-8").split())
        found = [built(f"{prefix}-probing-whole-batches") for prefix in NETS]
        mean = [mean_rank(each).split()[0] for each in found]
        correlations = [correlation(each).split()[0] for each in found]
        assert f"mean rank {mean[0]} and {mean[1]} instead of 1.0 and 6.9" in text
        assert f"correlation {' and '.join(correlations)} instead of 0.83 and 0.89:" in text

    @pytest.mark.slow(reason="measures")
    def test_held_out(self) -> None:
        columns = []
        for prefix in HELD_OUT:
            table, found = table_of(prefix), built(f"{prefix}-k2")
            free, bound = built(f"{prefix}-probing"), built(f"{prefix}-probing-bound")
            (plain,) = table.decouplings(1)
            best = max(map(table.truth, table.decouplings(2)))
            control = free["variants"]["layers alone, nothing probed"]
            columns.append(
                [
                    f"{100 * best:.1f}; {100 * table.truth(plain):.1f} %",
                    f"{100 * found['error_of_difference']:.2f} %",
                    *(ranks(free), mean_rank(free)),
                    f"{fmean(each['rank'] for each in control):.1f}",
                    *(ranks(bound), mean_rank(bound), correlation(free)),
                    f"{found['seed_correlation']['test_accuracy']:.2f}",
                    f"{fmean(each['correlation'] for each in control):.2f}",
                ]
            )
        rows = shown(BENCHMARK, "| eight probings at one")
        assert without_strategies(rows) == [list(row) for row in zip(*columns, strict=True)]

    def test_searches(self) -> None:
        expected = [
            [
                str(number),
                f"after layer {each['pick']['cuts'][0]}, `{each['pick']['aux'][0]}`",
                *(str(each["rank"]), f"{100 * each['regret']:.1f}"),
                *(f"{each[name]:.2f}" for name in ("cut_correlation", "full_correlation")),
            ]
            for number, each in enumerate(built("tabular-sedona")["searches"], start=1)
        ]
        assert shown(BENCHMARK, "| seed | pick |") == expected
        bound = [each["rank"] for each in built("tabular-sedona-bound")["searches"]]
        assert bound == [8, 8, 5]
        said = "Within 1.3/K the picks were 8th, 8th and 5th of 8."
        assert said in " ".join(BENCHMARK.read_text(encoding="utf-8").split())

    def test_early_signs(self) -> None:
        wanted = [
            (1, "error of the head"),
            (4, "error of the head"),
            (4, "error of the head, smoothed"),
            (1, "evidence by local errors"),
        ]
        found = []
        for prefix in NETS:
            signs = {(s["epoch"], s["evidence"]): s for s in built(f"{prefix}-signs")["signs"]}
            found.append([agreements(signs[each]["agreements"]) for each in wanted])
        rows = [row[1:] for row in shown(BENCHMARK, "| | VGG-11 | ResNet-18 |")]
        assert rows == [list(row) for row in zip(*found, strict=True)]

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


def at(table: Table, decoupling: Decoupling) -> str:
    (cut,), (aux,) = decoupling.cuts, decoupling.aux
    return f"{table.truth(decoupling):.1%}, after layer {cut}, `{aux}`"


def ranks(judged: dict[str, Any]) -> str:
    return " ".join(str(each["rank"]) for each in judged["searches"])


def mean_rank(judged: dict[str, Any]) -> str:
    searches = judged["searches"]
    rank, regret = (fmean(each[name] for each in searches) for name in ("rank", "regret"))
    return f"{rank:.1f} ({100 * regret:.2f})"


def correlation(judged: dict[str, Any]) -> str:
    found = [each["full_correlation"] for each in judged["searches"]]
    return f"{fmean(found):.2f} ({min(found):.2f})"


def contribution(judged: dict[str, Any], variant: str) -> str:
    found = judged["variants"][variant]
    rank = fmean(each["rank"] for each in found)
    return f"{fmean(each['correlation'] for each in found):.2f} ({rank:.1f})"


def agreements(found: Sequence[dict[str, Any]]) -> str:
    picked = " ".join(str(each["rank"]) for each in found)
    return f"{fmean(each['correlation'] for each in found):.2f} ({picked})"


def without_strategies(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the cells of the rows that are not of strategies which train to find out."""
    return [list(row[1:]) for row in rows if not row[0].startswith(("random search", "TPE"))]


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


@pytest.mark.slow(reason="hundreds of picks of each strategy")
@pytest.mark.timeout(3600)  # minutes, where nothing else is computed
class TestStrategies:
    """What strategies that train to find out come to."""

    @pytest.mark.parametrize("ending", ["score", "score-bound"])
    def test_by_number_of_trainings(self, ending: str) -> None:
        strategies = ("random", "regularized_evolution", "tpe", "uniform")
        rows = [row[1:] for row in shown(BENCHMARK, "| | VGG-11, 3 |")]
        assert len(rows) == 2 * len(strategies)
        own = rows[len(strategies) :] if ending == "score-bound" else rows[: len(strategies)]
        for strategy, row in zip(strategies, own, strict=True):
            # There are four uniform cuts, and within the bound no more than eight of all
            counts = (3, 4, 12) if (ending, strategy < "u") == ("score", True) else (3, 4, None)
            assert row == [
                "" if count is None else scored(f"{prefix}-{ending}", strategy, count)
                for prefix in NETS
                for count in counts
            ]
        beside_probing("| eight probings each |", NETS, ending)

    @pytest.mark.parametrize("ending", ["score", "score-bound"])
    def test_held_out(self, ending: str) -> None:
        beside_probing("| eight probings at one", HELD_OUT, ending)


def beside_probing(heading: str, prefixes: tuple[str, str], wanted: str) -> None:
    """Check the rows of strategies in a table of probings, those within the bound or the others."""
    rows = [row for row in shown(BENCHMARK, heading) if row[0].startswith(("random search", "TPE"))]
    seen: list[str] = []
    for label, *cells in rows:
        ending = "score-bound" if label in seen else "score"  # said again it is within 1.3/K
        seen.append(label)
        if ending != wanted:
            continue
        strategy = "tpe" if label.startswith("TPE") else "random"
        count = int(re.findall(r"\d+", label)[0])
        names = [f"{prefix}-{ending}" for prefix in prefixes]
        assert cells == [scored(name, strategy, count) for name in names], label
    assert len(rows) >= 2


def scored(name: str, strategy: str, count: int) -> str:
    found = built(name)["strategies"][strategy]
    rank, regret = (found[key][count - 1] for key in ("mean_rank", "mean_regret"))
    return f"{rank:.1f} ({100 * regret:.2f})"


class TestDerive:
    def test_files_say_what_they_are_made_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["benchmarks", "derive", "tabular-sedona", "--directory", str(tmp_path)]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        assert capsys.readouterr().out == f"{tmp_path / 'tabular-sedona.md'}\n"
        assert {path.name for path in tmp_path.iterdir()} == {
            "tabular-sedona.json",
            "tabular-sedona.md",
        }
        document = json.loads((tmp_path / "tabular-sedona.json").read_text())
        command = DERIVATIONS["tabular-sedona"].command
        assert document.pop("command") == command
        made_of = document.pop("made_of")
        assert len(made_of) == 4  # the table and three searches
        for path, digest in made_of.items():
            assert digest == hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        assert document == json.loads(json.dumps(built("tabular-sedona")))
        text = (tmp_path / "tabular-sedona.md").read_text(encoding="utf-8")
        assert text.startswith(f"# tabular-sedona\n\n    {command}\n\nPicked of 28 ")

    @pytest.mark.fast_cases(2)
    @pytest.mark.parametrize(
        "name", ["tabular-k3", "tabular-probing-bound", "tabular-held-out-k2", "study-two-leaders"]
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
        run = {"benchmarks.tabular": main_of_tabular, "benchmarks.study": main_of_study}[package]
        with pytest.raises(SystemExit) as ended:
            run()
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(built(name)))

    def test_a_name_that_is_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["benchmarks", "derive", "tabular-k2", "k9"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "names: must be of tabular-k2, " in capsys.readouterr().err

    def test_nothing_that_can_be_derived_is_stored(self) -> None:
        assert not {path.stem for path in RECORDS.iterdir()} & set(DERIVATIONS)
        ignored = ["git", "check-ignore", "--no-index", str(DIRECTORY / "study.json")]
        if (ROOT / ".git").exists():
            assert subprocess.run(ignored, cwd=ROOT, capture_output=True).returncode == 0

    def test_all_data_is_used(self) -> None:
        """No file lies there that says nothing."""
        used = {path for each in DERIVATIONS.values() for path in each.files}
        there = {path.relative_to(ROOT) for path in (ROOT / "benchmarks/data").rglob("*.json")}
        assert used == there


def test_derive_returns_what_is_to_be_read(tmp_path: Path) -> None:
    assert derive("tabular-sedona-bound", tmp_path) == tmp_path / "tabular-sedona-bound.md"
