"""`sedona_nni.reporting.ledger` and `sedona_nni.reporting.results`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from report_records import studied

from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.results import as_markdown, comparison
from sedona_nni.reporting.trial import (
    SearchTrial,
    SearchTrialResult,
    TrainTrial,
    TrainTrialResult,
)

CUT_AT_4 = {"backbone": "vgg11", "cuts": [4], "aux": ["conv2"]}
CUT_AT_1 = {"backbone": "vgg11", "cuts": [1], "aux": ["conv1"]}

UNTAUGHT = {"backbone": "vgg11", "cuts": [4], "aux": ["none"]}


def train(key: str, decoupling: dict[str, Any] = CUT_AT_4, **more: Any) -> TrainTrial:
    given = {"key": key, "strategy": key.split("-")[0], "decoupling": decoupling}
    return TrainTrial.model_validate({**given, **more})


SEARCH = SearchTrial(key="search", strategy="sedona", search="sedona")


def result(validation: float, test: float) -> TrainTrialResult:
    return TrainTrialResult(
        default=validation,
        test_accuracy=test,
        parameters=12345,
        peak_memory_mib=56.4,
        time_s=7.89,
    )


def found(time_s: float) -> SearchTrialResult:
    return SearchTrialResult(default=0.1, time_s=time_s, search_result={})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.start(SEARCH)
    ledger.start(train("uniform-000"))
    ledger.succeed("search", found(100.0))
    ledger.start(train("sedona-000"))
    ledger.start(train("sedona-001", CUT_AT_1))
    ledger.start(train("sedona-002"))
    ledger.succeed("sedona-000", result(0.8, 0.99))
    ledger.succeed("sedona-001", result(0.9, 0.5))
    ledger.fail("sedona-002", "diverged")
    return ledger


def test_the_best_trial_is_chosen_by_validation_and_reported_by_test_accuracy(
    ledger: Ledger,
) -> None:
    sedona, uniform = comparison(ledger)
    assert sedona.strategy == "sedona"
    assert sedona.test_accuracy == 0.5
    assert sedona.decoupling is not None
    assert sedona.decoupling.cuts == [1]
    assert (sedona.num_trials, sedona.num_failed) == (2, 1)
    assert sedona.search_time_s == 100.0
    assert uniform.test_accuracy is None
    assert (uniform.num_trials, uniform.num_failed) == (0, 0)


def test_the_table_in_markdown(ledger: Ledger) -> None:
    lines = as_markdown(comparison(ledger)).splitlines()
    assert lines[2] == (
        "| sedona | cut after layer 1 (conv1) | 90.0% | 50.0% | 12,345 | 56 MiB | 7.9 s | 100.0 s "
        "| 2 (1 failed) |"
    )
    assert lines[3] == "| uniform |  | – | – | – | – | – | – | 0 |"
    assert {line.count("|") for line in lines} == {10}


def test_one_search_serves_every_number_of_blocks(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.start(SEARCH)
    ledger.succeed("search", found(100.0))
    assert [(row.strategy, row.num_trials) for row in comparison(ledger)] == [("sedona", 0)]
    for name in ("sedona-k2", "sedona-k4", "sedona-k4-3", "uniform-k2"):
        ledger.start(train(f"{name}-000", strategy=name))
        ledger.succeed(f"{name}-000", result(0.8, 0.7))
    assert [(row.strategy, row.num_trials, row.search_time_s) for row in comparison(ledger)] == [
        ("sedona-k2", 1, 100.0),
        ("sedona-k4", 1, 100.0),
        ("sedona-k4-3", 1, 100.0),
        ("uniform-k2", 1, None),
    ]


def test_rows_of_a_study_are_means_over_its_trials() -> None:
    random = [studied("random", 0, 0.5), studied("random", 1, 0.7)]
    lost = studied("random", 2, status="failed", reason="diverged")
    row, probe = comparison([*random, lost, studied("probe", 0, 0.8)])
    assert row.test_accuracy == pytest.approx(0.55)  # means over both spaces: 0.45 and 0.65
    assert row.validation_accuracy == pytest.approx(0.6)
    assert (row.time_s, row.search_time_s) == (20, None)
    assert (probe.time_s, probe.search_time_s) == (20, 7)
    assert as_markdown([row]).splitlines()[2] == (
        "| random | mean of its trials | 60.0% | 55.0% | – | – | 20.0 s | – | 2 (1 failed) |"
    )


@pytest.mark.parametrize(
    ("settings", "decoupling", "words"),
    [
        ({"train": {"method": {"name": "greedy"}}}, CUT_AT_4, "cut after layer 4 (conv2)"),
        (
            {"train": {"method": {"name": "sequential"}}},
            CUT_AT_4,
            "cut after layer 4 (conv2), sequential",
        ),
        (
            {"train": {"method": {"name": "greedy"}}, "hyperparameters": {"method": "sequential"}},
            CUT_AT_4,
            "cut after layer 4 (conv2), sequential",
        ),
        ({"train": {"method": {"name": "ddg"}}}, UNTAUGHT, "cut after layer 4, ddg"),
        (
            {"train": {"method": {"name": "sequential"}}},
            {"backbone": "vgg11"},
            "no cut: back-propagation",
        ),
    ],
)
def test_the_method_is_named_where_it_matters(
    tmp_path: Path, settings: dict[str, Any], decoupling: dict[str, Any], words: str
) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.start(train("uniform-000", decoupling, **settings))
    ledger.succeed("uniform-000", result(0.8, 0.7))
    (row,) = comparison(ledger)
    assert as_markdown([row]).splitlines()[2].split(" | ")[1] == words


def test_a_ledger_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    again = Ledger(ledger.path)
    assert list(again) == list(ledger)
    assert [record.status for record in again] == [
        "succeeded",
        "running",
        "succeeded",
        "succeeded",
        "failed",
    ]


def test_a_change_adds_a_line_and_leaves_what_is_there(ledger: Ledger) -> None:
    before = ledger.path.read_bytes()
    ledger.start(train("sedona-003"))
    ledger.succeed("sedona-003", result(0.7, 0.6))
    started, ended = ledger.path.read_bytes().removeprefix(before).splitlines(keepends=True)
    assert json.loads(started)["parameters"]["key"] == "sedona-003"
    assert json.loads(ended)["key"] == "sedona-003"
    assert b"decoupling" not in ended
    assert list(Ledger(ledger.path)) == list(ledger)


def test_half_a_line_does_not_count_and_is_written_over(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes()
    for half in (b"{", b'{"key": "sedona-000", "status": "fai', bytes(4096)):
        ledger.path.write_bytes(whole + half)
        again = Ledger(ledger.path)
        assert list(again) == list(ledger)
        again.start(train("uniform-001"))
        *before, last = ledger.path.read_bytes().splitlines(keepends=True)
        assert b"".join(before) == whole
        assert json.loads(last)["parameters"]["key"] == "uniform-001"


def test_a_reader_takes_in_what_a_writer_adds(tmp_path: Path, ledger: Ledger) -> None:
    reader = Ledger(ledger.path)
    ledger.succeed("uniform-000", result(0.7, 0.6))
    ledger.start(train("sedona-002"))  # once more, after it has failed
    with ledger.path.open("ab") as file:
        file.write(b'{"key": "sedona-002"')
    reader.refresh()
    assert list(reader) == list(ledger)
    assert reader["uniform-000"].status == "succeeded"
    assert (reader["sedona-002"].status, reader["sedona-002"].reason) == ("running", None)

    early = Ledger(tmp_path / "later.jsonl")
    assert len(early) == 0
    writer = Ledger(early.path)
    writer.start(SEARCH)
    early.refresh()
    assert list(early) == list(writer)


def test_the_document_of_an_experiment_of_before_is_taken_over(
    tmp_path: Path, ledger: Ledger
) -> None:
    old = tmp_path / "old" / "trials.json"
    old.parent.mkdir()
    old.write_text(json.dumps(ledger.document()))
    path = old.with_suffix(".jsonl")
    watching, ours = Ledger(path), Ledger(path)
    assert list(ours) == list(watching) == list(ledger)
    assert not path.exists()
    ours.fail("uniform-000", "no luck")
    assert not old.exists()
    watching.refresh()
    assert list(Ledger(path)) == list(watching) == list(ours)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("what?", r"trials\.jsonl: must have events of trials, but got what\?$"),
        ("7", "must have events of trials, but got 7$"),
        ("[" * 100_000, r"must have events of trials, but got \[+$"),
        ('{"key": "nobody", "status": "failed"}', 'events of trials, but got {"key": "nobody"'),
        ('{"parameters": {}}', 'events of trials, but got {"parameters": {}}$'),
        ('{"key": "sedona-000", "status": "lost"}', r"trials\.jsonl: sedona-000\.status: "),
    ],
)
def test_a_line_that_makes_no_sense_is_named(ledger: Ledger, line: str, message: str) -> None:
    with ledger.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=message) as refused:
        Ledger(ledger.path)
    assert "\n" not in str(refused.value)


def test_a_ledger_that_the_system_does_not_let_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.symlink_to("/proc/self/mem")  # a regular file, whose first page nobody has
    with pytest.raises(InputError, match=r"trials\.jsonl: cannot be read \(Input/output error\)$"):
        Ledger(path)


@pytest.mark.slow(reason="reads ten thousand trials")
def test_ten_thousand_trials_open_as_fast_as_a_thousand_each(tmp_path: Path) -> None:
    """And a change is written as fast; compared, as machines differ."""
    took = {}
    parameters = train("sedona-0").model_dump(mode="json")
    ended = result(0.5, 0.4).model_dump(mode="json")
    for number in (1_000, 10_000):
        path = tmp_path / f"{number}.jsonl"
        events: list[dict[str, Any]] = [{"format": "sedona-nni/trials/3"}]
        for i in range(number):
            key = f"sedona-{i:05d}"
            events.append({"parameters": {**parameters, "key": key}})
            events.append({"key": key, "status": "succeeded", "result": ended})
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        times = []
        for _ in range(2):
            begin = time.process_time()
            ledger = Ledger(path)
            opened = time.process_time()
            for i in range(100):
                ledger.fail(f"sedona-{i:05d}", "no luck")
            times.append((opened - begin, time.process_time() - opened))
        assert len(ledger) == number
        took[number] = [min(of_each) for of_each in zip(*times, strict=True)]
    thousand, ten_thousand = took.values()
    assert ten_thousand[0] < 20 * thousand[0]
    assert ten_thousand[1] < 5 * thousand[1]


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    path.write_text('{"format": "another"}')
    with pytest.raises(InputError, match=r"trials\.json\.format"):
        Ledger(path)


@pytest.mark.parametrize(
    ("parameters", "result_", "message"),
    [
        ({"kind": "train"}, None, r"trials\.0\.parameters\.train\.key: this field is required"),
        ({"kind": "walk", "key": "a"}, None, r"a\.parameters: Input tag 'walk'"),
        (
            {"decoupling": {"cuts": [1]}},
            None,
            r"a\.parameters\.train\.decoupling\.backbone: this field is required",
        ),
        ({"task": {"backbon": 1}}, None, r"a\.parameters\.train\.task\.backbon: unknown field"),
        ({}, {"default": math.nan}, r"a\.result: train\.default: .* nan"),
        ({}, {"test_accuracy": 0.5}, r"a\.result: train\.default: this field is required"),
        (
            {},
            {"kind": "search", "search_result": {}},
            r"a\.result: kind: must be that of the trial, train, but got 'search'",
        ),
    ],
)
def test_a_ledger_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path,
    parameters: dict[str, Any],
    result_: dict[str, Any] | None,
    message: str,
) -> None:
    usual = {"key": "a", "strategy": "a", "kind": "train", "decoupling": CUT_AT_4}
    if "key" in parameters or "kind" not in parameters:
        parameters = {**usual, **parameters}
    status = "running" if result_ is None else "succeeded"
    trial = {"parameters": parameters, "status": status, "result": result_}
    path = tmp_path / "trials.json"
    path.write_text(json.dumps({"trials": [trial]}))
    with pytest.raises(InputError, match=message) as refused:
        Ledger(path)
    assert "\n" not in str(refused.value)
