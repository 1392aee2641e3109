"""Probing beside the best of its controls, by hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clocked_table import BACKPROP_S, table

from benchmarks.tabular.overview import contests, overview, sampled
from benchmarks.tabular.table import Entry, Table
from sedona_nni.errors import InputError
from sedona_nni.searches.probing.result import ProbeResult


def probed() -> ProbeResult:
    """The losses are the same everywhere, so what counts is how few layers are below."""
    return ProbeResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        losses=[[1.0]] * 7,
        undivided=0.5,
        provenance={"processor_s": BACKPROP_S, "training_s": BACKPROP_S},
    )


def test_probing_beside_the_best_control(tmp_path: Path) -> None:
    """The higher the cut, the better it is; all searches say the opposite."""
    tables, probes = tmp_path / "tables", tmp_path / "found" / "mine" / "probe"
    tables.mkdir()
    probes.mkdir(parents=True)
    (tables / "mine.json").write_text(table().model_dump_json(), encoding="utf-8")
    for seed in range(8):
        (probes / f"{seed}.json").write_text(probed().model_dump_json(), encoding="utf-8")
    (tmp_path / "found" / "not-probed").mkdir()
    shown = overview([tables / "mine.json"], tmp_path / "found")
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

    (row,) = contests([tables / "mine.json"], tmp_path / "found").results["contests"]
    probing, random, *others = row["contenders"]
    # Of three trainings' time one training is left, that of the lowest cut, 60 %; 66 % is the best
    assert (probing["name"], probing["cost"]) == ("probe", 1)
    assert probing["regrets"] == pytest.approx([0.06] * 8)
    assert (random["name"], len(random["regrets"]), random["p"] < 0.05) == ("random", 100, True)
    assert others[-1]["name"] == "uniform:conv1"
    assert row["backprop"] == pytest.approx(0.66 - 0.7)
    (cells,) = contests([tables / "mine.json"], tmp_path / "found").tables[0].rows
    assert (cells[0], cells[1], cells[-1]) == ("mine", "6.00", "-4.00")
    assert cells[2].endswith("*")


def test_all_are_compared_with_truths_that_leave_a_seed_out(tmp_path: Path) -> None:
    """With one seed the higher cuts are better, with the other the lower ones: 1 and -1."""
    path, probes = tmp_path / "mine.json", tmp_path / "found" / "mine" / "probe"
    probes.mkdir(parents=True)
    entries = []
    for each in table().entries:
        (first,) = each.trainings
        falling = 1 - first.test_accuracy
        update = {"seed": 2, "test_accuracy": falling, "validation_accuracy": falling}
        again = first.model_copy(update=update)
        entries.append(each.model_copy(update={"trainings": (first, again)}))
    path.write_text(Table.model_validate({**dict(table()), "entries": entries}).model_dump_json())
    (probes / "1.json").write_text(probed().model_dump_json(), encoding="utf-8")
    (row,) = overview([path], tmp_path / "found").results["overview"]
    assert (row["probing"], row["control"]) == pytest.approx((0, 0))
    assert row["trainings"] == pytest.approx(-1)


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
    with pytest.raises(InputError, match="--found: must hold a folder with probings for a table"):
        overview([tmp_path / "mine.json"], tmp_path)
    with pytest.raises(InputError, match="--found: must hold a folder with probings for a table"):
        contests([tmp_path / "mine.json"], tmp_path)
