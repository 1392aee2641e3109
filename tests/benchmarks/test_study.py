"""`benchmarks.study`: what is gathered, compared and drawn, on made-up trials worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from scipy.stats import t as students_t

from benchmarks.record import header
from benchmarks.study.__main__ import main
from benchmarks.study.collect import collect
from benchmarks.study.comparison import compare
from benchmarks.study.document import Study
from benchmarks.study.figure import front
from benchmarks.study.tables import comparison_tables, picks_of, picks_table
from benchmarks.study.views import show
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import StudyTrialResult, read_trial
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

SPACES = [{"num_blocks": 2, "max_block_share": None}, {"num_blocks": 2, "max_block_share": "1.3/K"}]
# Test accuracies of the picks by replicate, first space and second
PICKS = {
    "probe": [(0.75, 0.74), (0.74, 0.73), (0.76, 0.75)],
    "sedona": [(0.74, 0.70), (0.71, 0.71), (0.73, 0.72)],
    "random": [(0.72, 0.71), (0.73, 0.72)],
    "uniform:mlp-sr": [(0.70, None), (0.71, None), (0.69, None)],
    "backprop": [(0.74, None), (0.74, None), (0.75, None)],
}


def run(
    space: int | None, seed: int, validation: float, test: float, **other: Any
) -> dict[str, Any]:
    cuts = [] if space is None else [4]
    decoupling = {"backbone": "vgg11", "cuts": cuts, "aux": ["conv1"] * len(cuts)}
    return {
        "space": space,
        "decoupling": decoupling,
        "seed": seed,
        "validation_accuracy": validation,
        "test_accuracy": test,
        "time_s": 8.0 if cuts else 5.0,
        "images": 6400,
        "macs": 1e7,
        "parameters": 1000.0,
        "peak_memory_mib": 20.0 if cuts else 30.0,
        "largest_share": 0.625 if cuts else 1.0,
        **other,
    }


def trial(strategy: str, tests: tuple[float, float | None], number: int) -> dict[str, Any]:
    """A result with two trainings for each space, of which the second validated best."""
    chosen: Sequence[tuple[int | None, float]] = (
        [(None, tests[0])]
        if strategy == "backprop"
        else [(space, test) for space, test in enumerate(tests) if test is not None]
    )
    runs = [
        run(space, 100 * number + j, 0.5 + 0.1 * j, test + 0.1 * (1 - j))
        for space, test in chosen
        for j in range(2)
    ]
    search = {"time_s": 15.0, "images": 19200, "search_result": {}}
    return {
        "default": 0.6,
        "test_accuracy": float(np.mean([test for _, test in chosen])),
        "time_s": 47.0,
        "images": 44800,
        "search": search if strategy in ("probe", "sedona") else None,
        "runs": runs,
        "picks": [*(2 * place + 1 for place in range(len(chosen))), *([None] * (tests[1] is None))],
        "left_out": {"1": "too small"} if strategy.startswith("uniform") else {},
    }


def made_ledger(
    path: Path,
    picks: dict[str, Any] = PICKS,
    backbone: str = "vgg11",
    search: dict[str, Any] | None = None,
    **other: Any,
) -> Ledger:
    ledger = Ledger(path)
    searches = {
        "sedona": {
            "settings": search or {},
            "options": {"pretrain_share": 0.5, "meta_share": 0.1},
        },
        "probe": {"settings": {"cost": 2.5}},
    }
    for strategy, replicates in picks.items():
        for number, tests in enumerate(replicates):
            parameters = {
                "kind": "study",
                "key": f"{strategy}-{number:03}",
                "strategy": strategy,
                "replicate": number,
                "task": Task(backbone=backbone).model_dump(mode="json"),
                "aux": ["conv1", "conv2"],
                "spaces": SPACES,
                "budget": 2,
                "search": searches.get(strategy),
                "train": TrainSettings().model_dump(mode="json"),
                **other,
            }
            ledger.start(read_trial(parameters))
            ledger.succeed(
                parameters["key"], StudyTrialResult.model_validate(trial(strategy, tests, number))
            )
    return ledger


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return collect([made_ledger(tmp_path / "trials.json")], header(n=1))


def test_finished_trials_are_gathered_each_once(tmp_path: Path) -> None:
    first = made_ledger(tmp_path / "a.json", {"random": PICKS["random"]})
    first.fail("random-001", "killed")
    again = made_ledger(tmp_path / "b.json", {"random": [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)]})
    other = made_ledger(tmp_path / "c.json", {"random": PICKS["random"]}, backbone="resnet18")
    found = collect([first, again, other], header(n=1))
    assert [net.name for net in found.nets] == ["vgg11 x 1", "resnet18 x 1"]
    assert found.nets[0].accuracies("random", 0) == {0: 0.72, 1: 0.2, 2: 0.3}
    assert found.header.n == 3
    found.save(tmp_path / "study.json")
    assert Study.load(tmp_path / "study.json") == found
    assert found.nets[0].trials[0].runs[1].test_accuracy == 0.72


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picks": [0]}, "must have validated best, but run 0 of backprop-000 not"),
        ({"picks": [2]}, "must be indices of runs"),
        ({"picks": [0, 1]}, "must be one run for each space"),
        ({"picks": []}, "must be one run for each space"),
        ({"runs": [run(7, 0, 0.5, 0.5)] * 2}, "must be of one of the spaces"),
    ],
)
def test_trials_that_cannot_be_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    ledger = made_ledger(tmp_path / "trials.json", {"backprop": [(0.7, None)]})
    result = {**trial("backprop", (0.7, None), 0), **change}
    ledger.succeed("backprop-000", StudyTrialResult.model_validate(result))
    with pytest.raises(InputError, match=message):
        collect([ledger], header(n=1))


def test_trials_of_a_net_must_be_alike_and_there_must_be_some(tmp_path: Path) -> None:
    mixed = [
        made_ledger(tmp_path / "a.json", {"random": PICKS["random"]}),
        made_ledger(tmp_path / "b.json", {"sedona": PICKS["sedona"]}, budget=3),
    ]
    with pytest.raises(InputError, match="trial sedona-000: must have the budget of random-000"):
        collect(mixed, header(n=1))
    mixed[1] = made_ledger(tmp_path / "d.json", {"random": [(0, 0)] * 3}, search={"inner_steps": 9})
    assert collect(mixed, header(n=1)).nets[0].searches == {}  # of no one's concern
    with pytest.raises(InputError, match="no trial has succeeded yet"):
        collect([Ledger(tmp_path / "c.json")], header(n=1))


def test_what_picks_are_worth_and_cost(study: Study) -> None:
    (net,) = study.nets
    found = picks_of(net, 1, "sedona")
    assert found is not None
    assert found["test_accuracies"] == [0.70, 0.71, 0.72]
    assert (found["n"], found["sd"]) == (3, pytest.approx(0.01))
    # All of the search, 15 s, and two trainings of 8 s; back-propagation takes 5 s
    assert (found["cost_s"], found["cost_trainings"]) == (31, pytest.approx(6.2))
    assert (found["ideal_speedup"], found["peak_memory_mib"]) == (pytest.approx(1.6), 20)
    assert picks_of(net, 1, "uniform:mlp-sr") is None
    rows = {row[0]: row[1:] for row in picks_table(study, net, 1).rows}
    assert rows["uniform:mlp-sr"][0] == "0"
    assert rows["backprop"][:4] == ["3", "74.33", "0.58", "74.00 74.00 75.00"]
    assert list(rows) == list(PICKS)


def test_replicates_are_compared_pair_by_pair(study: Study) -> None:
    net, first, second = compare(study, "sedona", "probe")
    assert (net.space, first.space) == (None, "K = 2, any blocks")
    assert second.space == "K = 2, blocks ≤ 1.3/K"
    assert first.differences == pytest.approx((-0.01, -0.03, -0.03))
    assert net.differences == pytest.approx((-0.025, -0.025, -0.03))
    mean, error = np.mean(first.differences), np.std(first.differences, ddof=1) / 3**0.5
    assert first.mean == pytest.approx(mean)
    assert first.p == pytest.approx(2 * students_t.cdf(mean / error, df=2))
    width = students_t.ppf(0.975, df=2) * error
    assert (first.low, first.high) == (pytest.approx(mean - width), pytest.approx(mean + width))
    # Pairs that only one of the two has are left out, and so are spaces
    assert [each.n for each in compare(study, "random", "sedona")] == [2, 2, 2]
    assert [each.n for each in compare(study, "uniform:mlp-sr", "sedona")] == [3, 3]
    assert compare(study, "evolution", "sedona") == []
    # No spread, no interval
    same = compare(study, "random", "probe")[2]
    assert same.differences == pytest.approx((-0.03, -0.01))
    assert same.p is not None
    alike = compare(study, "uniform:mlp-sr", "uniform:mlp-sr")[0]
    assert (alike.mean, alike.low, alike.p) == (0, None, None)


def test_single_trainings_are_what_nothing_was_chosen_from(study: Study) -> None:
    """Of the two trainings the one that was not picked is better by 0.1 on the test images."""
    (net,) = study.nets
    picks, single = (net.accuracies("random", 0, measure) for measure in ("pick", "training"))
    assert picks == {0: 0.72, 1: 0.73}
    assert single == pytest.approx({0: 0.77, 1: 0.78})
    found = picks_of(net, 0, "random")
    assert found is not None
    assert found["single_training"] == pytest.approx(0.775)
    first = compare(study, "backprop", "random", "training")[1]
    assert first.differences == pytest.approx((0.02, 0.01))  # (0.74 + 0.84) / 2 - 0.77


def test_fewer_trainings_of_a_strategy(study: Study) -> None:
    """The first of two validated worse, and is 0.1 better in the test."""
    fewer = study.with_first("random", 1)
    (net,), (before,) = fewer.nets, study.nets
    for space in range(2):
        worse = before.accuracies("random", space)
        assert net.accuracies("random", space) == {
            number: pytest.approx(accuracy + 0.1) for number, accuracy in worse.items()
        }
        assert net.accuracies("probe", space) == before.accuracies("probe", space)
        assert net.of("random")[0].cost_s(space) == before.of("random")[0].cost_s(space) / 2
    assert study.with_first("random", 2) == study
    for wrong in (("luck", 1), ("random", 0)):
        with pytest.raises(InputError, match="first: must"):
            study.with_first(*wrong)


def test_pairs_of_all_nets_are_pooled(tmp_path: Path) -> None:
    picks = {
        "random": [(0.5, 0.7), (0.6, 0.6)],
        "backprop": [(0.7, None), (0.8, None), (0.9, None)],
    }
    ledgers = [
        made_ledger(tmp_path / "a.json"),
        made_ledger(tmp_path / "b.json", picks, backbone="resnet18"),
    ]
    comparisons = compare(collect(ledgers, header(n=1)), "backprop", "random")
    everything = comparisons[0]
    assert (everything.net, everything.space) == (None, None)
    assert everything.differences == pytest.approx((0.025, 0.015, 0.1, 0.2))
    assert comparison_tables(["backprop"], comparisons)[0].rows[0][1].startswith("+8.50 [")


def test_the_front_leaves_out_what_another_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 4.5), (4.0, 1.0)]
    assert front(points, more_is_better=True) == [(4, 1), (3, 4.5), (1, 5)]
    assert front(points, more_is_better=False) == [(1, 5)]


@pytest.mark.slow(reason="draws two pictures")
def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledgers = [
        made_ledger(tmp_path / "a.json"),
        made_ledger(tmp_path / "b.json", {"probe": PICKS["probe"][:1]}, backbone="resnet18"),
    ]
    ledgers[0].fail("random-001", "killed")
    data = str(tmp_path / "study.json")

    def call(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["benchmarks.study", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    call("collect", *(str(each.path) for each in ledgers), "--into", data)
    assert "vgg11 x 1: 13 trials, 40 trainings" in capsys.readouterr().out
    call("show", "--data", data, "--json")
    document = json.loads(capsys.readouterr().out)
    assert len(document["picks"]) == 2 * 2 * 5
    assert {each["n"] for each in document["picks"]} == {0, 1, 3}
    pairs = {(each["strategy"], each["reference"]) for each in document["comparisons"]}
    assert len(pairs) == 4 * 4
    view = show(Path(data))
    assert document == json.loads(json.dumps(view.results))
    text = "\n".join(table.markdown() for table in view.tables)
    pooled = "– | +2.67 [+1.95 to +3.38] (3) | +3.00 [–] (1) | +0.17 [-1.27 to +1.60] (3)"
    assert f"| probe | {pooled} |" in text
    assert "(left out: uniform:mlp-sr: too small)" in text
    row = "uniform:mlp-sr | 3 | 70.00 | 1.00 | 70.00 71.00 69.00 | 75.00 | 16.0 | 3.2 | 1.60 | 20.0"
    assert f"| {row} |" in text
    call("show", "--data", data, "--first", "random=1", "--json")
    fewer = json.loads(capsys.readouterr().out)["picks"]
    assert [each for each in fewer if each["strategy"] != "random"] == [
        each for each in document["picks"] if each["strategy"] != "random"
    ]
    assert fewer != document["picks"]
    call("figure", str(tmp_path), "--data", data)
    for name in ("study.png", "study-pareto.png"):
        pixels = matplotlib.image.imread(tmp_path / name)
        assert pixels.shape[1] > 500
        assert pixels[..., :3].std() > 0.05


def test_a_ledger_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no.json"
    monkeypatch.setattr("sys.argv", ["benchmarks.study", "collect", str(missing)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "ledgers: must be files that exist" in capsys.readouterr().err
