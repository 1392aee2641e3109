"""Experiments of before trials said of which kind they are: what they left is read as it was.

``tests/former`` has what five small ones left: their ledgers and Optuna's studies, and the tables
that were made of them then.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nni_world import wait_for

from sedona_nni.errors import InputError
from sedona_nni.reporting.build import build_report
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.speed import measured_speedups
from sedona_nni.reporting.trial import read_trial
from sedona_nni.strategies import known
from sedona_nni.strategies.bridge import BridgeTuner
from sedona_nni.strategies.checkpoint import LEDGER_FILE, STUDY_FILE, TRIALS_FILE
from sedona_nni.strategies.grid import GridTuner
from sedona_nni.strategies.nni_border.tuner import BorderTuner
from sedona_nni.strategies.report_source import read_sources
from sedona_nni.strategies.runner import write_results
from sedona_nni.strategies.study import StudyTuner
from sedona_nni.strategies.tuner import OptunaTuner, SedonaTuner
from sedona_nni.trials import __main__ as trial_main

FORMER = Path(__file__).parents[1] / "former"
TUNERS: dict[str, type[BorderTuner]] = {
    "searches": SedonaTuner,
    "tuning": OptunaTuner,
    "grid": GridTuner,
    "study": StudyTuner,
    "bridge": BridgeTuner,
}
KINDS = {
    "searches": ["search"] * 2 + ["train"] * 12,
    "tuning": ["train"] * 10,
    "grid": ["repeated"] * 3,
    "study": ["study"] * 5,
    "bridge": ["train"] * 3,
}


def written(name: str) -> list[dict[str, Any]]:
    """What the ledger has, as it was written."""
    found: list[dict[str, Any]] = json.loads((FORMER / name / TRIALS_FILE).read_text())["trials"]
    return found


@pytest.mark.parametrize("name", TUNERS)
def test_every_trial_is_of_its_kind(name: str) -> None:
    records = list(Ledger(FORMER / name / LEDGER_FILE))
    assert [record.parameters.kind for record in records] == KINDS[name]
    for record, before in zip(records, written(name), strict=True):
        trial, given = record.parameters, before["parameters"]
        assert (trial.key, trial.strategy) == (given["key"], given["strategy"])
        assert trial.machine.device == "cpu"
        assert trial.machine.threads == 1
        assert trial.task.train_limit == 300
        if trial.kind in ("train", "repeated"):
            assert trial.train == given["train"]
            assert trial.decoupling.cuts == given["decoupling"]["cuts"]
        if record.result is not None:
            assert record.result.default == before["result"]["default"]
    assert measured_speedups(records) == {}  # nobody wrote down on how many processors


def test_searches_keep_their_settings() -> None:
    ledger = Ledger(FORMER / "searches" / LEDGER_FILE)
    sedona, probe = (ledger[key].parameters for key in ("search", "search-probe"))
    assert (sedona.search, sedona.settings["meta_steps"], sedona.train) == ("sedona", 3, None)
    assert (probe.search, probe.settings["cost"], probe.train["epochs"]) == ("probe", 0.5, 2)
    study = Ledger(FORMER / "study" / LEDGER_FILE)
    how = {key: study[f"{key}-000"].parameters.search for key in ("sedona", "probe", "random")}
    assert how["random"] is None
    assert (how["probe"].settings["seed"], how["probe"].options) == (3000, {})
    assert how["sedona"].settings["seed"] == 2000
    assert how["sedona"].options == {"pretrain_share": 0.5, "meta_share": 0.1}


@pytest.mark.parametrize("name", TUNERS)
def test_the_results_are_the_same_as_then(name: str, tmp_path: Path) -> None:
    """What has been added to rows since is aside."""
    write_results(Ledger(FORMER / name / LEDGER_FILE), tmp_path)
    for table in ("table.json", "pareto.json"):
        now, then = tmp_path / table, FORMER / name / table
        assert now.exists() == then.exists()
        if then.exists():
            rows, before = (json.loads(path.read_text()) for path in (now, then))
            assert [
                {column: row[column] for column in of_then}
                for row, of_then in zip(rows, before, strict=True)
            ] == before


@pytest.mark.parametrize("name", TUNERS)
def test_they_can_be_reported(name: str) -> None:
    sources = read_sources([str(FORMER / name)])
    report = build_report(sources, lambda trials: {})
    best = max(row["validation_accuracy"] for row in table(name))
    for group in report.groups:
        assert group.experiments[0].name == name
        assert max(t.validation_accuracy or 0 for t in group.trials) >= best
    assert len(report.groups) == (2 if name == "study" else 1)
    searches = {"searches": 2, "study": 2}.get(name, 0)
    assert all(len(group.searches) == searches for group in report.groups)


def table(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((FORMER / name / "table.json").read_text())
    return rows


@pytest.mark.parametrize("name", TUNERS)
def test_they_are_listed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "abc" / "checkpoint"
    checkpoint.mkdir(parents=True)
    shutil.copy(FORMER / name / TRIALS_FILE, checkpoint)
    stored = {
        "id": "abc",
        "logDir": str(tmp_path),
        "experimentName": name,
        "status": "STOPPED",
        "startTime": 0,
    }
    config = yaml.safe_load((FORMER / name / "experiment.yml").read_text())
    monkeypatch.setattr(known, "all_experiments", lambda: {"abc": stored})
    monkeypatch.setattr(known, "experiment_config", lambda name: config)
    (found,) = known.known_experiments()
    assert found.ended == len(KINDS[name])
    trained = [t for t in written(name) if t["parameters"]["stage"] == "train" and "result" in t]
    assert found.best == max(trial["result"]["default"] for trial in trained)


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize("name", TUNERS)
def test_an_interrupted_one_goes_on(name: str, dispatch: Any) -> None:
    """The last trial was under way; NNI starts it again, as it was sent then."""
    config = yaml.safe_load((FORMER / name / "experiment.yml").read_text())
    nni = dispatch(TUNERS[name](**config["tuner"]["classArgs"]))
    *ended, last = written(name)
    result = last.pop("result", {"default": 0.1})
    document = {"format": "sedona-nni/trials/1"}
    interrupted = {"parameters": last["parameters"], "status": "running"}
    (nni.folder / TRIALS_FILE).write_text(json.dumps({**document, "trials": [*ended, interrupted]}))
    if (studies := FORMER / name / "optuna.sql").exists():
        with sqlite3.connect(nni.folder / STUDY_FILE) as connection:
            connection.executescript(studies.read_text())
    nni.initialize(config["searchSpace"])
    sent = {**last["parameters"], "mutation_summary": {"key": last["parameters"]["key"]}}
    again = [{"parameter_id": 1, "parameters": sent}]
    nni.trials = {1: again[0]}
    nni.dispatcher.handle_add_customized_trial(again)
    nni.request(1)
    nni.dispatcher.handle_import_data(
        [{"parameter": {}, "value": json.dumps(t["result"])} for t in ended if "result" in t]
    )
    assert nni.started == []
    key = last["parameters"]["key"]
    nni.final(key, **{name: value for name, value in result.items() if name != "key"})
    nni.end(key)
    wait_for(lambda: nni.ended)  # NNI's strategies run in a thread
    assert nni.error is None
    assert nni.started == []
    after = Ledger(nni.folder / LEDGER_FILE)
    assert (nni.folder / LEDGER_FILE).exists()
    assert not (nni.folder / TRIALS_FILE).exists()  # it has taken its place
    assert [record.key for record in after] == [t["parameters"]["key"] for t in [*ended, last]]
    assert after[key].status == "succeeded"


@pytest.mark.slow(reason="an experiment of several trials")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("searches", "search"),
        ("tuning", "given-001"),
        ("grid", "backprop-002"),
        ("study", "backprop-000"),
    ],
)
def test_a_trial_that_nni_starts_again_does_what_it_was_to_do(
    name: str, key: str, tmp_path: Path
) -> None:
    before = next(trial for trial in written(name) if trial["parameters"]["key"] == key)
    trial = read_trial(before["parameters"])
    result = trial_main.run(trial, torch.device("cpu"), tmp_path, print)
    assert result.kind == trial.kind
    assert result.images == before["result"]["images"]


def test_a_probing_that_nni_starts_again_is_none_of_today() -> None:
    """It had a setting that is gone: better one line than something else than it was to do."""
    key = "search-probe"
    before = next(trial for trial in written("searches") if trial["parameters"]["key"] == key)
    trial = read_trial(before["parameters"])
    with pytest.raises(InputError, match=r"^probe\.batch_split: unknown field"):
        trial_main.run(trial, torch.device("cpu"), Path(), print)
