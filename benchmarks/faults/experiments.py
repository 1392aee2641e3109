"""Whole experiments as what faults are done to: under NNI's manager, and in a folder without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from benchmarks.faults.home import Home
from benchmarks.faults.subject import EXPERIMENT, Subject
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.checkpoint import LEDGER_FILE, STUDY_FILE
from sedona_nni.strategies.hyperparameters import study_url

__all__ = ["InFolder", "UnderNni"]

_TRIALS = {"search": 0, "training": 1}  # in the order of their starts
_COMPUTING = (*_TRIALS, "rank")
_KEYS = {"search": "search", "training": "probe-000"}


class InFolder(Subject):
    """``sedona-nni run --directory``."""

    name = "experiment in a folder"
    victims = ("command", *_COMPUTING)
    computing = _COMPUTING

    def words(self, home: Home) -> list[str]:
        """See `Subject.words`."""
        return ["run", EXPERIMENT, "--directory", "run", "--json"]

    def results(self, home: Home) -> dict[str, Any]:
        """See `Subject.results`."""
        return _results(home.folder / "run" / "checkpoint")

    def end(self, home: Home) -> dict[str, Any]:
        """See `Subject.end`."""
        return _end(home.folder / "run" / "checkpoint")

    def is_victim(self, victim: str, words: list[str], environment: Mapping[str, str]) -> bool:
        """See `Subject.is_victim`."""
        folder = Path(environment.get("NNI_OUTPUT_DIR", ""))
        return _is_trial(words) and folder.name == _KEYS.get(victim)


class UnderNni(Subject):
    """``sedona-nni run``, and ``resume``."""

    name = "experiment under NNI"
    victims = ("command", "manager", "tuner", *_COMPUTING)
    computing = _COMPUTING

    def words(self, home: Home) -> list[str]:
        """See `Subject.words`."""
        port = ["--port", f"{home.unused_port()}", "--json"]
        folder = _folder(home)
        return ["run", EXPERIMENT, *port] if folder is None else ["resume", folder.name, *port]

    def is_begun(self, home: Home) -> bool:
        """See `Subject.is_begun`."""
        return _folder(home) is not None

    def results(self, home: Home) -> dict[str, Any]:
        """See `Subject.results`."""
        folder = _folder(home)
        return {} if folder is None else _results(folder / "checkpoint")

    def end(self, home: Home) -> dict[str, Any]:
        """See `Subject.end`."""
        folder = _folder(home)
        return {} if folder is None else _end(folder / "checkpoint")

    def is_victim(self, victim: str, words: list[str], environment: Mapping[str, str]) -> bool:
        """See `Subject.is_victim`."""
        if victim == "manager":
            return "--experiment-id" in words and words[0].endswith("node")
        if victim == "tuner":
            return "--exp_params" in words
        return _is_trial(words) and environment["NNI_TRIAL_SEQ_ID"] == f"{_TRIALS.get(victim)}"


def _is_trial(words: list[str]) -> bool:
    return any(word.endswith("sedona-nni-trial") for word in words[:2])


def _folder(home: Home) -> Path | None:
    """Return where NNI keeps the experiment, None while it has not begun."""
    found = [path.parent for path in home.folder.glob("nni-experiments/*/checkpoint")]
    return next((path for path in found if not path.is_symlink()), None)  # NNI links the latest


def _results(checkpoint: Path) -> dict[str, Any]:
    """Return the trials that have succeeded, and Optuna's studies, by name."""
    found: dict[str, Any] = {}
    for record in Ledger(checkpoint / LEDGER_FILE):
        if record.result is not None:
            found[record.key] = record.model_dump(mode="json")
    return found


def _end(checkpoint: Path) -> dict[str, Any]:
    """Return all trials, and what Optuna knows of them."""
    storage = study_url(checkpoint / STUDY_FILE)
    studies = {
        name: [
            [trial.number, trial.state.name, trial.params, trial.values]
            for trial in optuna.load_study(study_name=name, storage=storage).trials
        ]
        for name in optuna.get_all_study_names(storage)
    }
    statuses = {record.key: record.status for record in Ledger(checkpoint / LEDGER_FILE)}
    return {**_results(checkpoint), "statuses": statuses, "studies": studies}
