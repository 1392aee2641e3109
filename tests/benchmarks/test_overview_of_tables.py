"""Probing beside the best of its controls, by hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clocked_table import BACKPROP_S, table

from benchmarks.tabular.overview import contests, overview, sampled
from benchmarks.tabular.table import Entry
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.result import ProbeResult


def test_probing_beside_the_best_control(tmp_path: Path) -> None:
    """The higher the cut, the better it is; all searches say the opposite."""
    tables, probes = tmp_path / "tables", tmp_path / "found" / "mine" / "probe"
    tables.mkdir()
    probes.mkdir(parents=True)
    (tables / "mine.json").write_text(table().model_dump_json(), encoding="utf-8")
    for seed in range(8):
        outcome = ProbeResult(
            backbone="vgg11",
            dataset="digits",
            aux_choices=["conv1"],
            losses=[[1.0]] * 7,  # the same everywhere, so what counts is how few layers are below
            undivided=0.5,
            provenance={"processor_s": BACKPROP_S},
        )
        (probes / f"{seed}.json").write_text(outcome.model_dump_json(), encoding="utf-8")
    (tmp_path / "found" / "not-probed").mkdir()
    shown = overview(tmp_path / "found")
    (row,) = shown.results["overview"]
    assert row == {
        "table": "mine",
        "num_blocks": 2,
        "probing": pytest.approx(-1),
        "trainings": None,  # one seed has no others to be compared with
        "control": pytest.approx(1),
        "name": "cuts high",
    }
    assert shown.tables[0].rows == [["mine", "2", "7 of 7", "-1.00", "–", "1.00", "cuts high"]]

    (row,) = contests(tmp_path / "found").results["contests"]
    probing, random, *others = row["contenders"]
    # Of three trainings' time one training is left, that of the lowest cut, 60 %; 66 % is the best
    assert (probing["name"], probing["cost"]) == ("probe", 1)
    assert probing["regrets"] == pytest.approx([0.06] * 8)
    assert (random["name"], len(random["regrets"]), random["p"] < 0.05) == ("random", 100, True)
    assert others[-1]["name"] == "uniform:conv1"
    assert row["backprop"] == pytest.approx(0.66 - 0.7)
    (cells,) = contests(tmp_path / "found").tables[0].rows
    assert (cells[0], cells[1], cells[-1]) == ("mine", "6.00", "-4.00")
    assert cells[2].endswith("*")


def test_few_decouplings_say_nothing() -> None:
    found = table()
    single = found.entries[0]
    pairs = [
        Entry.model_validate({**single.model_dump(), "cuts": (0, j), "aux": ("conv1", "conv1")})
        for j in range(1, 6)
    ]
    for count, expected in ((4, [2]), (5, [2, 3])):
        entries = (*found.entries, *pairs[:count])
        assert sampled(found.model_copy(update={"entries": entries})) == expected


def test_a_folder_without_probings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="FOUND: must hold a folder with probings for a table"):
        overview(tmp_path)
    with pytest.raises(InputError, match="FOUND: must hold a folder with probings for a table"):
        contests(tmp_path)
