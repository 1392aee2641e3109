"""From the ledgers of experiments to the study's document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from benchmarks.record import Header
from benchmarks.study.document import Study
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.reporting.trial import SearchInStudy, StudyRun, StudyTrial, StudyTrialResult
from sedona_nni.searches import SEARCHES
from sedona_nni.task import Task

__all__ = ["collect"]

_DIGITS = 5  # more than one test image in 10,000
_COMMON = ("aux", "train", "spaces", "budget")
_Done = tuple[StudyTrial, StudyTrialResult]


def collect(ledgers: Sequence[Ledger], header: Header) -> Study:
    """Make a document of all trials that succeeded.

    Args:
        ledgers: Of experiments of `strategies.study.StudyTuner`, any number for each net; the first
            that has finished a trial counts.
        header: How the experiments were made; its ``n`` becomes the number of replicates.

    Raises:
        InputError: if there is no such trial, or not all trials of a net have the same settings.
    """
    by_net: list[tuple[Task, dict[str, _Done]]] = []
    for ledger in ledgers:
        for record in ledger:
            trial, result = record.parameters, record.result
            if result is None:
                continue
            if not isinstance(trial, StudyTrial) or not isinstance(result, StudyTrialResult):
                raise InputError.rule(
                    f"{ledger.path}: trial {record.key}", "must be one of a study", record.strategy
                )
            found = next((found for known, found in by_net if known == trial.task), None)
            if found is None:
                found = {}
                by_net.append((trial.task, found))
            found.setdefault(record.key, (trial, result))
    if not by_net:
        raise InputError(f"{ledgers[0].path}: no trial has succeeded yet")
    try:
        nets = [_net(task, list(found.values())) for task, found in by_net]
        study = Study.model_validate({"header": header, "nets": nets})
    except ValidationError as error:
        raise InputError.from_validation(error, "ledgers") from None
    return study.model_copy(update={"header": header.model_copy(update={"n": study.replicates})})


def _net(task: Task, done: Sequence[_Done]) -> dict[str, Any]:
    known: dict[str, tuple[str, Any]] = {}
    searches: dict[str, dict[str, Any]] = {}
    for trial, _ in done:
        settings = _settings(trial)
        for name, own in settings.items():
            first, value = known.setdefault(name, (trial.key, own))
            if own != value:
                raise InputError(f"trial {trial.key}: must have the {name} of {first}")
        if trial.search is not None:
            searches[trial.strategy] = _search(trial.strategy, trial.search)
    return {
        "task": task,
        **{name: known[name][1] for name in _COMMON},
        "searches": searches,
        "trials": [_trial(trial, result) for trial, result in done],
    }


def _settings(trial: StudyTrial) -> dict[str, Any]:
    """Return the settings of a trial's study by the names that they have in its file."""
    settings = trial.model_dump(mode="json", exclude_none=True, include=set(_COMMON))
    if trial.search is not None:
        settings |= _search(trial.strategy, trial.search)
    return settings


def _search(strategy: str, search: SearchInStudy) -> dict[str, Any]:
    return {**search.options, SEARCHES[strategy].field: search.settings}


def _trial(trial: StudyTrial, result: StudyTrialResult) -> dict[str, Any]:
    return {
        "key": trial.key,
        "strategy": trial.strategy,
        "replicate": trial.replicate,
        **_rounded(result.model_dump(include={"time_s", "processor_s", "images"})),
        "search": None if result.search is None else _rounded(result.search.model_dump()),
        "runs": [_run(run) for run in result.runs],
        "picks": [pick for pick in result.picks if pick is not None],
        "left_out": result.left_out,
    }


def _run(run: StudyRun) -> dict[str, Any]:
    numbers = _rounded(run.model_dump(exclude={"decoupling"}))
    return {**numbers, "cuts": run.decoupling.cuts, "aux": run.decoupling.aux}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without digits that say nothing."""
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in values.items()
    }
