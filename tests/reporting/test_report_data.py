"""`sedona_nni.reporting.build` and `equal_cost`: equal cost and spread, worked by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from report_records import COMPUTE, CUT, TASK, probed, record, searched, studied, trained

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.reporting.build import Source, build_report
from sedona_nni.reporting.data import Curve, Group, Report, Spread, Within
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.page import render
from sedona_nni.reporting.text import summary_table
from sedona_nni.searches.probing.result import ProbeResult


def no_importance(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    raise AssertionError("too few to tell")


def group(*experiments: Sequence[TrialRecord]) -> Group:
    sources = [Source(f"e{number}", records) for number, records in enumerate(experiments)]
    (only,) = build_report(sources, no_importance).groups
    return only


def curve(of: Group, strategy: str, cost: str) -> Curve:
    (found,) = (c for c in of.curves if (c.strategy, c.cost) == (strategy, cost))
    return found


def test_the_best_so_far_over_cost_with_the_search_charged_first() -> None:
    found = group([searched(100), trained("sedona-000", 0.6, 0.5), trained("sedona-001", 0.8, 0.4)])
    images = curve(found, "sedona", "images")
    assert images.points == [150, 200]
    assert images.validation == [0.6, 0.8]
    assert images.test == [0.5, 0.4]  # of the best by validation, though its test is worse
    assert (images.num_experiments, images.validation_sd, images.test_sd) == (1, None, None)
    assert curve(found, "sedona", "time_s").points == [15, 20]


def test_a_failed_training_is_charged_what_the_others_cost_on_average() -> None:
    failed = record("uniform-001", status="failed", reason="diverged")
    running = record("uniform-003")
    first, last = trained("uniform-000", 0.5, images=40), trained("uniform-002", 0.4, images=60)
    assert curve(group([first, failed, last, running]), "uniform", "images").points == [40, 150]


@pytest.mark.slow(reason="draws every picture")
def test_a_stopped_training_is_charged_what_it_did() -> None:
    stopped = record("uniform-001", status="stopped", reason="stopped early", share_done=0.4)
    first, last = trained("uniform-000", 0.5, images=40), trained("uniform-002", 0.4, images=60)
    found = group([first, stopped, last])
    assert curve(found, "uniform", "images").points == [40, 120]
    (summary,) = found.strategies
    assert (summary.num_trials, summary.num_failed, summary.num_stopped) == (2, 0, 1)
    assert (found.experiments[0].state, found.experiments[0].stopped) == ("finished", 1)
    assert found.studies[0].stopped == [2]
    assert "2 (1 stopped early)" in summary_table(found)[1][0]
    page = render(Report(groups=[found]), "a test")
    assert "1 stopped early" in page
    assert ">stopped early</td>" in page


def test_mean_and_spread_over_experiments_once_all_have_a_training() -> None:
    found = group(
        [trained("uniform-000", 0.6, 0.5), trained("uniform-001", 0.8, 0.7)],  # 50, 100
        [trained("uniform-000", 0.7, 0.6, 60), trained("uniform-001", 0.5, 0.9, 20)],  # 60, 80
    )
    images = curve(found, "uniform", "images")
    # from 60, where the second has its first, to 100, where the first has its last
    assert images.points == [60, 80, 100]
    assert images.num_experiments == 2
    assert images.validation == pytest.approx([0.65, 0.65, 0.75])  # 0.6 and 0.7; 0.8 and 0.7
    assert images.validation_sd == pytest.approx([math.sqrt(2 * 0.05**2)] * 3)
    assert images.test == pytest.approx([0.55, 0.55, 0.65])  # of those with 0.6 and 0.7; ...

    (summary,) = found.strategies
    assert (summary.num_experiments, summary.num_trials) == (2, 4)
    assert summary.validation_accuracy is not None
    assert summary.validation_accuracy.mean == pytest.approx(0.75)  # the best at the very end
    assert [(trial.experiment, trial.key) for trial in summary.best] == [
        ("e0", "uniform-001"),
        ("e1", "uniform-000"),
    ]


def test_a_strategy_with_a_part_of_the_experiments_has_fewer_n() -> None:
    found = group(
        [trained("uniform-000", 0.6), trained("random-000", 0.7)], [trained("uniform-000", 0.7)]
    )
    numbers = {each.strategy: each.num_experiments for each in found.curves}
    assert numbers == {"uniform": 2, "random": 1}


def test_equal_cost_is_the_least_that_any_strategy_has_spent() -> None:
    found = group(
        [
            searched(100),
            trained("sedona-000", 0.9),  # done at 150
            trained("sedona-001", 0.95),
            trained("uniform-000", 0.6, images=60),
            trained("uniform-001", 0.7, images=60),  # done at 120
            trained("uniform-002", 0.8, images=60),  # done at 180
            *(trained(f"random-{n:03d}", 0.5 + n / 100, images=33) for n in range(5)),  # 165
        ]
    )
    assert found.budgets == {"images": 165, "time_s": pytest.approx(16.5)}
    within = {each.strategy: each.within["images"] for each in found.strategies}
    assert reached(within["sedona"]) == 0.9
    assert reached(within["uniform"]) == 0.7
    assert reached(within["random"]) == 0.54

    dear = group([searched(1000), trained("sedona-000", 0.9), trained("uniform-000", 0.6)])
    sedona, uniform = (each.within["images"] for each in dear.strategies)
    assert (sedona.num_experiments, sedona.validation_accuracy, sedona.first) == (0, None, 1050)
    assert reached(uniform) == 0.6


def reached(within: Within) -> float:
    assert within.num_experiments == 1
    assert within.validation_accuracy is not None
    return within.validation_accuracy.mean


def test_a_search_is_charged_to_every_number_of_blocks() -> None:
    found = group(
        [searched(100), trained("sedona-k2-000", 0.6), trained("sedona-k4-000", 0.7)],
    )
    assert [each.strategy for each in found.strategies] == ["sedona-k2", "sedona-k4"]
    for each in found.strategies:
        assert each.total["images"].mean == 150
        assert each.search_time_s is not None


def test_without_images_there_is_time() -> None:
    found = group([trained("uniform-000", 0.6, images=None, time_s=2.0)])
    assert set(found.budgets) == {"time_s"}
    assert [each.cost for each in found.curves] == ["time_s"]


def test_blocks_and_ideal_speed_up() -> None:
    (trial,) = group([trained("uniform-000", 0.6, compute=COMPUTE, sizes=[32] * 8)]).trials
    assert [(b.first_layer, b.last_layer, b.share, b.aux_share) for b in trial.blocks] == [
        (0, 4, 5 / 8, 1 / 8),
        (5, 7, 3 / 8, 0),
    ]
    assert trial.ideal_speedup == pytest.approx(8 / 6)


def test_undecided_boundaries() -> None:
    (search,) = group([searched(), trained("sedona-000", 0.6)]).searches
    assert search.undecided == pytest.approx(3 / 7)
    assert len(search.a_loc) == 7


def test_a_probing_is_charged_and_shown() -> None:
    found = group([probed(), trained("probe-000", 0.6), trained("uniform-000", 0.5)])
    assert curve(found, "probe", "images").points == [120]  # 70 and 50
    assert curve(found, "probe", "time_s").points == [12]
    (search,) = found.searches
    assert (search.kind, search.steps, search.trainings) == ("probing", 24, 2.44)
    assert search.validation_accuracy is None  # but a loss
    assert [len(row) for row in search.evidence] == [7, 6, 5, 4, 3, 2, 1]
    result = search.result
    assert isinstance(result, ProbeResult)
    shortfall = result.shortfalls().min(axis=1)
    assert search.evidence[0] == pytest.approx(-np.arange(1, 8) / 8 * shortfall)
    assert search.evidence[3] == pytest.approx(-np.arange(1, 5) / 8 * shortfall[3:])


def test_compromises_are_the_front_and_what_was_trained() -> None:
    off = {"decoupling": {**CUT, "cuts": [0, 1], "aux": ["conv1", "conv1"]}}
    found = group(
        [
            searched(),
            trained("sedona-k2-000", 0.6),  # cut 4 with conv2, the most evident
            trained("sedona-k3-000", 0.6, given=off),  # not even with the preferred networks
            trained("uniform-000", 0.6, given={"decoupling": {**CUT, "cuts": [5]}}),
        ]
    )
    (search,) = found.searches
    counts = [point.decoupling.num_blocks for point in search.compromises]
    assert counts == sorted(counts)
    assert set(counts) == {2, 3}
    two = [point for point in search.compromises if point.decoupling.num_blocks == 2]
    assert two[0].decoupling == Decoupling.model_validate(CUT)
    assert two[0].evidence == 1
    for lower, upper in itertools.pairwise(two):
        assert lower.evidence > upper.evidence
        assert lower.ideal_speedup < upper.ideal_speedup
    assert [point.decoupling.cuts for point in search.compromises if point.is_trained] == [
        [4],
        [0, 1],
    ]
    assert [point.decoupling.cuts for point in search.compromises if not point.is_best] == [[0, 1]]

    elsewhere = {"task": {**TASK, "backbone": "vgg19"}}
    (search,) = group([trained("sedona-000", 0.6, given=elsewhere), searched()]).searches
    assert search.compromises == []  # what was searched is another network


def test_a_study_has_a_group_for_each_space_and_replicates_for_experiments() -> None:
    records = [
        studied("probe", 0, 0.7),
        studied("random", 0, 0.5, 0.6),
        studied("backprop", 0, 0.8, 0.9),
        studied("probe", 1, 0.8),
        studied("random", 1, status="failed", reason="diverged"),
        studied("backprop", 1, status="running"),
    ]
    free, bounded = build_report([Source("s", records)], no_importance).groups
    assert (free.space, bounded.space) == ("2 blocks", "2 blocks within 1.5/K")
    assert free.is_repeated
    found = {each.strategy: each for each in free.strategies}
    assert values(found["probe"].test_accuracy) == [0.7, 0.8]
    assert values(found["random"].test_accuracy) == [0.6]
    assert values(found["backprop"].test_accuracy) == [0.9]
    assert values(found["probe"].ideal_speedup) == [1.25, 1.25]
    assert curve(free, "probe", "time_s").points == [17]  # 7 of the search, 10 of the training
    assert curve(free, "random", "time_s").points == [10, 20]
    others = {each.strategy: values(each.test_accuracy) for each in bounded.strategies}
    assert others == {"probe": [0.6, 0.7], "random": [0.5], "backprop": [0.9]}
    for each in (free, bounded):
        (experiment,) = each.experiments
        assert (experiment.name, experiment.succeeded, experiment.failed) == ("s", 4, 1)
        assert experiment.open == ["backprop-001"]
        assert experiment.lost == {"random-001": "diverged"}
        assert [(s.experiment, s.kind) for s in each.searches] == [
            ("s #0", "probing"),
            ("s #1", "probing"),
        ]
        assert each.studies == []
        assert each.differing == []


def values(spread: Spread | None) -> list[float]:
    assert spread is not None
    return [round(value, 6) for value in spread.values]


def test_one_group_for_each_task() -> None:
    other = {"task": {**TASK, "width_multiplier": 0.5}}
    seed = {"task": {**TASK, "split_seed": 5, "data_dir": "elsewhere"}}
    sources = [
        Source("a", [record("uniform-000")]),
        Source("b", [record("uniform-000", given=other)]),
        Source("c", [record("uniform-000", given=seed)]),
    ]
    groups = build_report(sources, no_importance).groups
    assert [[each.name for each in group.experiments] for group in groups] == [["a", "c"], ["b"]]


def test_settings_that_differ_are_named_but_not_the_tuned_ones() -> None:
    other = {"train": {"seed": 4, "epochs": 9, "lr": 0.3}}
    assert group([record("uniform-000"), record("uniform-001", given=other)]).differing == [
        "epochs"
    ]


@pytest.mark.parametrize(
    ("records", "is_running", "planned", "state"),
    [
        ([trained("uniform-000", 0.6)], False, None, "finished"),
        ([trained("uniform-000", 0.6)], True, 1, "finished"),  # the manager waits to be stopped
        ([trained("uniform-000", 0.6)], True, 2, "running"),
        ([trained("uniform-000", 0.6)], False, 2, "unfinished"),
        ([record("uniform-000")], True, None, "running"),
        ([record("uniform-000")], False, None, "unfinished"),
    ],
)
def test_states(
    records: list[TrialRecord], is_running: bool, planned: int | None, state: str
) -> None:
    report = build_report([Source("e", records, is_running, planned)], no_importance)
    (experiment,) = report.groups[0].experiments
    assert experiment.state == state


def test_importance_is_asked_for_from_enough_trainings_of_all_experiments_together() -> None:
    asked = []

    def importance(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
        asked.append(trials)
        return {"lr": 1.0}

    many = [trained(f"uniform-{n:03d}", 0.5 + n / 100) for n in range(6)]
    few = [trained(f"random-{n:03d}", 0.5) for n in range(11)]
    report = build_report([Source("a", [*many, *few]), Source("b", many)], importance)
    studies = report.groups[0].studies
    assert [(study.strategy, study.experiment, study.importance) for study in studies] == [
        ("uniform", "a", {"lr": 1.0}),
        ("uniform", "b", {"lr": 1.0}),
        ("random", "a", None),
    ]
    (trials,) = asked
    assert len(trials) == 12
    assert trials[0] == ({"lr": 0.2}, 0.5)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "e: has no trials yet"),
        ([trained("uniform-000", 1.5)], "e: uniform-000.validation_accuracy: .* 1.5"),
        (
            [trained("uniform-000", 0.5, compute={**COMPUTE, "layers": [1] * 3})],
            "e: uniform-000.compute: auxiliary must have one entry per boundary",
        ),
        ([searched(search_result={})], "e: search.result: format must be one of .*None"),
        (
            [probed(search_result={"format": "sedona-nni/probe-result/1"})],
            "e: search.result.backbone: this field is required",
        ),
        (
            [studied("random", 0, 0.5), record("uniform-000")],
            "e: uniform-000: is not of a study, unlike others",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    records: list[TrialRecord], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        build_report([Source("e", records)], no_importance)
    assert "\n" not in str(refused.value)
