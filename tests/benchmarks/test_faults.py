"""`benchmarks.faults`: what a campaign does, and rounds of it on a training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.faults.campaign import AnyRound, campaign, fault_table, planned_round
from benchmarks.faults.disturbed import SUBJECTS, Disturbance, Undisturbed, disturb, kinds
from benchmarks.faults.subject import lasting


def test_a_round_depends_on_the_seed_and_its_number_alone() -> None:
    first = [planned_round(1, number) for number in range(1, 31)]
    assert [planned_round(1, number) for number in range(30, 0, -1)] == first[::-1]
    assert [planned_round(2, number) for number in range(1, 31)] != first


def test_every_kind_comes_once_in_each_turn() -> None:
    count = len(kinds()) + 10
    planned = [planned_round(1, number) for number in range(1, 2 * count + 1)]
    for turn in (planned[:count], planned[count:]):
        found = Counter(each.kind for each in turn if isinstance(each, Disturbance))
        assert len(found) == sum(found.values()) == len(kinds())
    assert planned[:count] != planned[count:]


def test_what_is_in_the_journal_is_not_repeated(tmp_path: Path) -> None:
    done: list[AnyRound] = []
    for number in (1, 2):
        done.append(replace(planned_round(7, number), end_s=1.5, reason="it was cold"))
    journal = tmp_path / "journal.jsonl"
    lines = [json.dumps([7, asdict(each)]) for each in done]
    journal.write_text("\n".join(lines) + "\n[7, {")
    assert campaign(7, [1, 2], 5, print, journal) == done
    assert [row[1:3] for row in fault_table(done).rows] == [["1", "1"]] * 2


def test_what_is_never_twice_the_same_does_not_count() -> None:
    assert lasting({"a": [{"time_s": 1, "loss": 2}]}) == {"a": [{"loss": 2}]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed.of(SUBJECTS["training"], False, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow(reason="a training that is started two times, beside an undisturbed one")
@pytest.mark.parametrize(
    ("fault", "share", "ends"),
    [
        # so late that there is much to keep: where it was faster than the undisturbed, at its end
        ("killed", 0.9, {"-9", "before"}),
        ("the same again meanwhile", 0.3, {"0"}),
    ],
)
def test_a_training_goes_on_to_the_same_end(
    fault: str, share: float, ends: set[str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    planned = Disturbance(1, "training", fault, "command", False, share, goes_on=True, draw=0.5)
    done = disturb(planned, undisturbed, tmp_path / "round")
    assert done.reason is None
    assert done.ended in ends
    assert not list(tmp_path.glob("round/*"))


@pytest.mark.slow(reason="a training that is started two times, beside an undisturbed one")
def test_another_end_is_noticed(undisturbed: Undisturbed, tmp_path: Path) -> None:
    results = {**undisturbed.end["results"], "loss": 0.0}
    other = replace(undisturbed, end={**undisturbed.end, "results": results})
    planned = Disturbance(1, "training", "killed", "command", False, 0.5, goes_on=True, draw=0.5)
    done = disturb(planned, other, tmp_path / "round")
    assert done.reason is not None
    assert done.reason.startswith("unlike undisturbed: results.loss, ")
