"""Long runs: who is watched, and what is told of it. No times."""

from __future__ import annotations

import pytest

from benchmarks import endurance


@pytest.mark.slow(reason="an experiment of several trials")
def test_a_run_is_watched_while_its_trials_end() -> None:
    run = endurance.long_run("directory", trials=6, seconds=0.1)
    assert len(run["answers_s"]) == 4  # two of six began at once
    assert min(run["answers_s"]) > 0
    ended = [sample["ended"] for sample in run["samples"]]
    assert ended == sorted(ended)
    assert all({*sample} <= {"ended", "command"} for sample in run["samples"])
    memory, files = next(sample["command"] for sample in run["samples"] if "command" in sample)
    assert memory > 50
    assert files >= 3


def test_tables_tell_early_from_late() -> None:
    samples = [
        {"ended": n, "command": [100.0 + n, 3], "manager": [50.0, 20 + n], "tuner": [9.0, 7]}
        for n in range(11)
    ]
    run = {"samples": samples, "answers_s": [0.5] * 60 + [0.7] * 60, "took_s": 120.0}
    memory, answers = endurance.run_tables({"nni": run})
    assert memory.rows == [
        ["under NNI: command", "102", "110", "3", "3"],
        ["under NNI: manager", "50", "50", "22", "30"],
        ["under NNI: tuner", "9", "9", "7", "7"],
    ]
    assert answers.rows == [["under NNI", "0.50", "0.70", "0.70", "2.0"]]


@pytest.mark.slow(reason="fills a study, makes a page")
def test_what_is_kept_is_opened_and_reported() -> None:
    opened = endurance.opening(20)
    assert all(seconds > 0 for seconds in opened.values())
    assert len(endurance.opening_table({20: opened}).rows) == len(opened)
    page = endurance.reporting(20)
    assert page["seconds"] > 0
    assert 0.1 < page["mib"] < 2
