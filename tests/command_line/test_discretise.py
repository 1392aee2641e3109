"""``sedona-nni discretise``."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from shell import discretised, sedona

from sedona_nni.decouplings.decoupling import Decoupling


@pytest.mark.slow(reason="every command imports PyTorch")
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


@pytest.mark.slow(reason="every command imports PyTorch")
def test_discretise_within_a_bound_on_memory(
    found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as far up as the search likes, as all but the last layer are then one block."""
    bounded = ("--num-blocks", "2", "--max-block-memory", "1.4/K")
    (chosen,) = discretised(monkeypatch, capsys, found, *bounded)["decouplings"]
    share = ("--compute", "memory", "--max-block-share", "1.4/K")
    shown = discretised(monkeypatch, capsys, found, *bounded[:2], *share)
    assert shown["decouplings"][0]["decoupling"]["cuts"] == chosen["decoupling"]["cuts"] != [6]
    assert shown["compute"]["unit"] == "bytes"
    assert shown["decouplings"][0]["largest_share"] <= 0.7
    assert chosen["decoupling"]["provenance"]["max_block_memory"] == "1.4/K"
    front = discretised(monkeypatch, capsys, found, *bounded, "--pareto")["decouplings"]
    assert front[0]["decoupling"]["cuts"] == chosen["decoupling"]["cuts"]


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
