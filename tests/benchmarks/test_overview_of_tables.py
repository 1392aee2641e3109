"""Probing beside the best of its controls, by hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from clocked_table import BACKPROP_S, table
from scipy.stats import ttest_1samp

from benchmarks.tabular.overview import contests, lead_p, leads, overview, sampled
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
    assert (random["name"], len(random["regrets"]), random["p"] < 0.05) == ("random", 200, True)
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


def seeds_of(tmp_path: Path, accuracies: dict[int, list[float]]) -> Path:
    """Return the file of a table in which the cut at j ends as told, for each seed."""
    path = tmp_path / "mine.json"
    entries = [
        each.model_copy(
            update={
                "trainings": tuple(
                    each.trainings[0].model_copy(
                        update={
                            "seed": seed,
                            "test_accuracy": of_cuts[each.cuts[0]],
                            "validation_accuracy": of_cuts[each.cuts[0]],
                        }
                    )
                    for seed, of_cuts in accuracies.items()
                )
            }
        )
        for each in table().entries
        if each.cuts
    ]
    entries += [each for each in table().entries if not each.cuts]
    path.write_text(Table.model_validate({**dict(table()), "entries": entries}).model_dump_json())
    return path


def test_leads_are_by_truths_without_the_seed_that_picked(tmp_path: Path) -> None:
    """Four trainings' time is what two leaders cost, the two lowest cuts after a free probing.

    With the seed 1 the second validates better and is 3 points behind by the others, with the
    others the first is the best of all.
    """
    others = [0.7, 0.67, 0.6, 0.6, 0.6, 0.6, 0.6]
    path = seeds_of(tmp_path, {1: [0.6, 0.65, 0.7, 0.7, 0.7, 0.7, 0.7], 2: others, 3: others})
    probes = tmp_path / "found" / "mine" / "probe"
    probes.mkdir(parents=True)
    free = {"processor_s": 0.0, "training_s": BACKPROP_S}
    for seed in (1, 2):
        probing = probed().model_copy(update={"provenance": free})
        (probes / f"{seed}.json").write_text(probing.model_dump_json(), encoding="utf-8")
    (found,) = leads([path], tmp_path / "found").results["leads"]
    # Truths of seeds 2 and 3: 0.67 of 0.7; of 1 and 3: 0.65 of 0.66, which is the other's
    assert found["probing"] == pytest.approx([0.03, 0.01, 0.01])
    behind = found["leads"]["random"]
    assert len(behind) == 3
    assert found["p"]["random"] <= 1
    assert set(found["leads"]) == {"random", "uniform", "successive_halving"}
    # Uniform cuts are at the middle alone, with the one network that there is: 0.65, 0.65
    assert found["leads"]["uniform"] == pytest.approx([0.1 - 0.03, 0.01 - 0.01, 0.01 - 0.01])
    (cells,) = leads([path], tmp_path / "found").tables[0].rows
    assert cells[:3] == ["mine", "3", "1.67"]


def test_the_error_of_leads_is_the_jackknifes(tmp_path: Path) -> None:
    """Two cuts always picked: leads that leave a seed out are means of the others' differences, and
    p is that of the plain t-test on the seeds' own differences."""
    own = [0.02, 0.05, -0.01, 0.04]  # of the first cut over the second, by seed
    left_out = [(sum(own) - each) / (len(own) - 1) for each in own]
    assert lead_p(left_out) == pytest.approx(ttest_1samp(own, 0).pvalue)
    assert lead_p([0.1, 0.1]) == 1


def test_one_search_is_enough(tmp_path: Path) -> None:
    path = seeds_of(tmp_path, {seed: [0.6 + j / 100 for j in range(7)] for seed in (1, 2)})
    probes = tmp_path / "found" / "mine" / "probe"
    probes.mkdir(parents=True)
    (probes / "1.json").write_text(probed().model_dump_json(), encoding="utf-8")
    (found,) = leads([path], tmp_path / "found").results["leads"]
    assert found["probing"] == pytest.approx([0.06, 0.06])  # 0.6 of 0.66, of the one that it trains


def test_leads_need_two_seeds(tmp_path: Path) -> None:
    path = seeds_of(tmp_path, {1: [0.6] * 7})
    probes = tmp_path / "found" / "mine" / "probe"
    probes.mkdir(parents=True)
    (probes / "1.json").write_text(probed().model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match=r"seeds: must be two or more in .*mine.json, but got 1"):
        leads([path], tmp_path / "found")


def test_several_tables_have_a_mean_and_a_largest(tmp_path: Path) -> None:
    paths = [tmp_path / "mine.json", tmp_path / "yours.json"]
    for path in paths:
        path.write_text(table().model_dump_json(), encoding="utf-8")
        probes = tmp_path / "found" / path.stem / "probe"
        probes.mkdir(parents=True)
        for seed in range(8):
            (probes / f"{seed}.json").write_text(probed().model_dump_json(), encoding="utf-8")
    shown, controlled = contests(paths, tmp_path / "found", 3).tables
    assert [row[0] for row in shown.rows] == ["mine", "yours", "*mean*", "*largest*"]
    assert {row[1] for row in shown.rows} == {"6.00"}
    assert controlled.headings[:3] == ["table", "probe", "cuts low"]
    high = controlled.headings.index("cuts high")
    # Three trainings pay for one: the highest cut is the best, the lowest the worst
    assert {(row[2], row[high]) for row in controlled.rows} == {("6.00", "0.00")}


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
