"""Searches and strategies at equal cost: who may train what, who is judged how."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from clocked_table import BACKPROP_S, table
from scipy.stats import t

from benchmarks.tabular.__main__ import main
from benchmarks.tabular.contest import Contender, contest, follow, holm, p_values
from benchmarks.tabular.race import RACERS
from benchmarks.tabular.references import References
from benchmarks.tabular.table import Table
from benchmarks.tabular.views import contest as view
from sedona_nni.errors import InputError
from sedona_nni.searches.slopes.result import SlopeResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings


def found(best: int, second: int, cost: float) -> SlopeResult:
    """Return an outcome that prefers two boundaries; ``cost`` in trainings without cuts."""
    slopes = [[0.0] for _ in range(7)]
    slopes[best], slopes[second] = [2.0], [1.0]
    return SlopeResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        slopes=slopes,
        provenance={"processor_s": cost * BACKPROP_S, "training_s": BACKPROP_S},
    )


@pytest.mark.parametrize(
    ("cost", "regret"),
    [
        (3.0, 0.03),  # nothing left for a training, which costs 2: the first leader, 63 %
        (2.0, 0.03),  # that of the first leader alone
        (0.5, 0.03),  # 3.5 trainings: still one
        (0.0, 0.01),  # two; the second leader, 65 %, validates better
    ],
)
def test_what_a_search_leaves_is_spent_on_leaders(cost: float, regret: float) -> None:
    (search, *_) = contest(table(), {"slopes": [found(3, 5, cost)]}, budget=4, repeats=2)
    assert search.name == "slopes"
    assert search.cost == pytest.approx(cost)
    assert search.regrets == pytest.approx((regret,))


def test_a_leader_is_kept_where_the_next_is_worse() -> None:
    (search, *_) = contest(table(), {"slopes": [found(5, 3, 0)]}, budget=4, repeats=2)
    assert search.regrets == pytest.approx((0.01,))


def test_a_search_is_worth_what_its_leaders_trainings_are_worth_in_the_mean() -> None:
    """Worked by hand: of four pairs of trainings, the second leader wins in one."""
    plain = table()
    validated = {5: (0.5, 0.7), 3: (0.6, 0.5)}  # the first leader and the second, by seed
    entries = [
        entry.model_copy(
            update={
                "trainings": tuple(
                    entry.trainings[0].model_copy(
                        update={"seed": seed, "validation_accuracy": accuracy}
                    )
                    for seed, accuracy in enumerate(validated[entry.cuts[0]])
                )
            }
        )
        if entry.cuts and entry.cuts[0] in validated
        else entry
        for entry in plain.entries
    ]
    several = Table.model_validate({**dict(plain), "entries": entries})
    (search, *_) = contest(several, {"slopes": [found(5, 3, 0)]}, budget=4, repeats=2)
    # Regrets 0.01 and 0.03; (0.5, 0.6) is the second's, and at (0.5, 0.5) the first is kept
    assert search.regrets == pytest.approx((0.75 * 0.01 + 0.25 * 0.03,))


def test_all_contend() -> None:
    everyone = contest(table(), {"slopes": [found(5, 3, 1)] * 2}, budget=14, repeats=3)
    names = [each.name for each in everyone]
    assert names == ["slopes", *RACERS, "uniform:conv1"]
    assert [len(each.regrets) for each in everyone] == [2, *[3] * len(RACERS), 1]
    assert everyone[-1].regrets == pytest.approx((0.03,))  # the middle, after layer 3


def test_who_only_asks_at_random_is_left_out() -> None:
    """Evolution and TPE begin with six at random; 12 pays for six trainings, and 14 for seven."""
    everyone = contest(table(), {"slopes": [found(5, 3, 1)]}, budget=12, repeats=2)
    names = {each.name for each in everyone}
    assert {*RACERS} - names == {"regularized_evolution", "tpe"}
    # Before a training has ended there is a pick, too
    early = contest(table(), {"slopes": [found(5, 3, 1)]}, budget=1.5, repeats=2)
    assert {*RACERS} - {each.name for each in early} == {"regularized_evolution", "tpe"}


def test_controls_spend_all_on_their_leaders() -> None:
    """Four trainings pay for two; the cut at j ends at (60 + j) %, and 6 is the best."""
    rising = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    undecided = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    scores = {
        "up": [rising],
        "down": [[-each for each in rising]],
        "either": [undecided, rising],
        "blind": [[0.0] * 7],
    }
    up, down, either, blind = follow(table(), scores, budget=4, repeats=500)
    assert (up.name, up.cost, up.regrets) == ("up", 0, pytest.approx((0.0,)))
    assert down.regrets == pytest.approx((0.05,))  # of the cuts 0 and 1 the second
    assert either.regrets == pytest.approx((0.0, 0.0))  # the best is trained in any order
    # The better of two of seven drawn at random is k (from 1) with probability (k - 1) / 21, 16/3
    # in the mean; and 500 draws leave an error of 0.0006
    assert blind.regrets == pytest.approx(((7 - 16 / 3) / 100,), abs=0.003)


def test_leaders_of_controls_have_different_cuts() -> None:
    """Both networks at the lowest boundary score best; the second leader is at the highest."""
    plain = table()
    cut = [entry for entry in plain.entries if entry.cuts]
    again = [entry.model_copy(update={"aux": ("conv2",)}) for entry in cut]
    assert plain.clock is not None
    seconds = {**plain.clock.seconds, **{f"vgg11 {j}:conv2": 2 * BACKPROP_S for j in range(7)}}
    both = Table.model_validate(
        {
            **dict(plain),
            "aux_choices": ("conv1", "conv2"),
            "entries": (*plain.entries, *again),
            "clock": plain.clock.model_copy(update={"seconds": seconds}),
        }
    )
    scores = [9.0, 0, 1, 2, 3, 4, 7, 8.0, 0, 1, 2, 3, 4, 6]  # of the 14 in the table's order
    (control,) = follow(both, {"lowest": [scores]}, budget=4, repeats=3)
    assert control.regrets == pytest.approx((0.0,))


def test_picks_may_be_judged_by_other_truths() -> None:
    plain = table()
    turned = [
        entry.model_copy(
            update={
                "trainings": (
                    entry.trainings[0].model_copy(
                        update={"test_accuracy": 1 - entry.trainings[0].test_accuracy}
                    ),
                )
            }
        )
        for entry in plain.entries
    ]
    truths = Table.model_validate({**dict(plain), "entries": turned})
    (search, random, *_) = contest(
        plain, {"slopes": [found(6, 5, 0)]}, budget=4, repeats=2, truths=truths
    )
    assert search.regrets == pytest.approx((0.06,))  # the best of the others is the worst of these
    assert min(random.regrets) >= 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_p_is_small_where_contenders_differ() -> None:
    contenders = [
        Contender("a", 1, tuple(0.01 + 0.0001 * i for i in range(8))),
        Contender("same", 0, tuple(0.01 + 0.0001 * i for i in range(8))),
        Contender("worse", 0, tuple(0.011 + 0.0001 * i for i in range(8))),
        Contender("once", 0, (0.5,)),
    ]
    p = p_values(contenders, "a")
    assert [*p] == ["same", "worse"]
    assert p["same"] == 1
    # Both of variance 6e-8, so t = 0.001 / sqrt(2 * 6e-8 / 8) with 14 degrees of freedom; twice
    assert p["worse"] == pytest.approx(2 * 2 * t.sf(0.001 / math.sqrt(2 * 6e-8 / 8), 14))


def test_two_that_do_not_vary_are_not_told_apart() -> None:
    contenders = [Contender("a", 1, (0.01, 0.01)), Contender("b", 1, (0.02, 0.02))]
    assert p_values(contenders, "a") == {"b": 1}


def test_the_view(tmp_path: Path) -> None:
    path, folder = tmp_path / "table.json", tmp_path / "found" / "slopes"
    path.write_text(table().model_dump_json(), encoding="utf-8")
    folder.mkdir(parents=True)
    for seed in range(3):
        outcome = found(5, 3, 1)
        (folder / f"{seed}.json").write_text(outcome.model_dump_json(), encoding="utf-8")
    shown = view(tmp_path / "found", path, repeats=2)
    assert shown.results["reference"] == "slopes"
    assert [row[0] for row in shown.tables[0].rows][:2] == ["slopes", "random"]


def test_references_end_alike_and_stand_below_the_contest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "task": Task(backbone="vgg11", width_multiplier=0.1, train_limit=60),
        "train": TrainSettings(epochs=1, batch_size=20, validation_fraction=0.5),
    }
    path, folder = tmp_path / "table.json", tmp_path / "found" / "slopes"
    path.write_text(table().model_copy(update=small).model_dump_json(), encoding="utf-8")
    folder.mkdir(parents=True)
    (folder / "1.json").write_text(found(5, 3, 1).model_dump_json(), encoding="utf-8")
    output = tmp_path / "found" / "references.json"
    argv = ["benchmarks.tabular", "references", str(output), "--table", str(path)]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    plain, checkpointed, best = References.load(output).trainings
    assert plain.test_accuracy == checkpointed.test_accuracy  # one process, the same numbers
    assert checkpointed.peak_memory_mib < plain.peak_memory_mib
    assert best.name == "the best, cut after layer 6 (conv1)"
    assert best.ideal_peak_memory_mib < plain.ideal_peak_memory_mib
    shown = view(tmp_path / "found", path, repeats=2)
    assert [row[0] for row in shown.tables[1].rows] == [
        "back-propagation",
        "checkpointed",
        best.name,
    ]
    # The best, 66 %, is 4 points behind back-propagation
    assert "by the seeds of both, is -4.00 %" in shown.tables[1].title


def test_what_is_not_possible_is_a_clear_error(tmp_path: Path) -> None:
    dear = [found(1, 2, 3), found(1, 2, 5)]
    with pytest.raises(InputError, match="--budget: must be at least what a search costs"):
        contest(table(), {"slopes": dear}, budget=4)
    both = contest(table(), {"slopes": dear, "other": [found(1, 2, 1)]}, budget=4, repeats=2)
    assert [each.regrets == () for each in both[:2]] == [True, False]
    silent = found(1, 2, 1).model_copy(update={"provenance": {}})
    with pytest.raises(InputError, match=r"provenance\.training_s: must be in what slopes found"):
        contest(table(), {"slopes": [silent]}, budget=4)
    path = tmp_path / "table.json"
    path.write_text(table().model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="FOUND: must hold folders with outcomes"):
        view(tmp_path, path)
