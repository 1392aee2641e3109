"""`sedona_nni.strategies.known`: the experiments that `sedona-nni list` shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from report_records import search, training

from sedona_nni import command_line
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import SearchTrialResult, TrainTrialResult
from sedona_nni.strategies import known

TUNER = {"className": "sedona_nni.strategies.tuner.SedonaTuner"}


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What NNI has written down; a test adds to it."""
    stored: dict[str, dict[str, Any]] = {}
    configs = {"foreign": {"tuner": {"name": "TPE"}}}
    monkeypatch.setattr(known, "all_experiments", lambda: stored)
    monkeypatch.setattr(
        known,
        "experiment_config",
        lambda name: configs.get(name, {"tuner": TUNER, "maxTrialNumber": 3}),
    )
    return stored


def add(stored: dict[str, dict[str, Any]], folder: Path, name: str, status: str, day: int) -> None:
    stored[name] = {
        "id": name,
        "experimentName": f"try {day}",
        "status": status,
        "startTime": day * 86_400_000,
        "logDir": str(folder),
        "port": 8080,
    }


def trials(folder: Path, name: str, results: list[tuple[str, float | None]]) -> None:
    ledger = Ledger(folder / name / "checkpoint" / "trials.jsonl")
    for number, (strategy, accuracy) in enumerate(results):
        key = f"{strategy}-{number:03d}"
        is_search = strategy == "search"
        ledger.start(search("sedona", key) if is_search else training(key))
        if accuracy is None:
            continue
        found = SearchTrialResult(default=accuracy, search_result={})
        ledger.succeed(key, found if is_search else TrainTrialResult(default=accuracy))


def listed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sedona-nni", "list", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    assert not exit_.value.code


def test_none(
    experiments: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed(monkeypatch)
    assert capsys.readouterr().out.startswith("there are no experiments yet; ")
    listed(monkeypatch, "--json")
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "Input should be a valid dictionary"),
        ('{"a": {"id": "a", "status": 1}}', "a.experimentName: this field is required"),
        (
            '{"a": {"id": "a", "experimentName": "b", "status": "DONE", "startTime": 1e99}}',
            "startTi",
        ),
    ],
)
def test_a_damaged_list_of_nni(
    text: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nni.tools.nnictl import config_utils, constants

    (tmp_path / ".experiment").write_text(text)
    monkeypatch.setattr(constants, "NNI_HOME_DIR", str(tmp_path))
    monkeypatch.setattr(config_utils.Experiments.__init__, "__defaults__", (str(tmp_path),))
    with pytest.raises(InputError, match=rf"\.experiment: .*{complaint}|\.experiment.*{complaint}"):
        known.known_experiments()


def test_what_they_are_at(
    experiments: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(experiments, tmp_path, "done", "STOPPED", 1)
    trials(tmp_path, "done", [("search", 0.99), ("sedona", 0.9), ("uniform", 0.95)])
    add(experiments, tmp_path, "half", "STOPPED", 2)
    trials(tmp_path, "half", [("search", 0.99), ("sedona", None)])
    add(experiments, tmp_path, "wrong", "ERROR", 3)
    add(experiments, tmp_path, "now", "TUNER_NO_MORE_TRIAL", 4)
    add(experiments, tmp_path, "foreign", "DONE", 5)
    listed(monkeypatch, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert [(each["id"], each["state"], each["ended"], each["planned"]) for each in shown] == [
        ("now", "running", 0, 3),
        ("wrong", "failed", 0, 3),
        ("half", "stopped", 1, 3),
        ("done", "finished", 3, 3),
    ]
    assert [each["web_ui"] for each in shown] == ["http://127.0.0.1:8080", None, None, None]
    best = {each["id"]: (each["best"], each["best_strategy"]) for each in shown}
    assert best["done"] == (0.95, "uniform")  # and not the search
    assert best["half"] == (None, None)

    listed(monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "done" in line]
    for text in ("try 1", "finished", "3 of 3", "95.0% (uniform)", str(tmp_path / "done")):
        assert text in row


def test_an_experiment_whose_records_are_damaged_is_listed(
    experiments: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(experiments, tmp_path, "old", "STOPPED", 1)
    path = tmp_path / "old" / "checkpoint" / "trials.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")

    def damaged(name: str) -> dict[str, Any]:
        raise OSError("no data base")

    monkeypatch.setattr(known, "experiment_config", damaged)
    (found,) = known.known_experiments()
    assert (found.id, found.state, found.ended, found.planned) == ("old", "stopped", 0, None)
