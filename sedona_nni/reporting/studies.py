"""The trials of a study as reports understand them: each replicate an experiment in each space.

A study's trial lets a strategy choose decouplings in every space; see `trials.study`. What it
trained in a space, and its search, become trials of their own. A search serves all spaces, and is
in each of them, so each is charged it in full, as the study does.
"""

from __future__ import annotations

from collections.abc import Sequence

from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.trial import (
    SearchTrial,
    SearchTrialResult,
    StudyRun,
    StudySearch,
    StudyTrial,
    StudyTrialResult,
    TrainTrial,
    TrainTrialResult,
)

__all__ = ["unfolded"]


def unfolded(name: str, records: Sequence[TrialRecord]) -> dict[str, dict[str, list[TrialRecord]]]:
    """Return the trials of a study: by space in words, then by replicate.

    Args:
        name: Of the study.
        records: Its trials; what has not ended or failed has nothing to return.

    Raises:
        InputError: if a trial is not of a study.
    """
    found: dict[str, dict[str, list[TrialRecord]]] = {}
    for record in records:
        trial = record.parameters
        if not isinstance(trial, StudyTrial):
            raise InputError(f"{name}: {record.key}: is not of a study, unlike others")
        replicate = f"{name} #{trial.replicate}"
        for number, space in enumerate(trial.spaces):
            own = found.setdefault(space.in_words, {}).setdefault(replicate, [])
            if isinstance(record.result, StudyTrialResult):
                own += _in_space(number, trial, record.result)
    return found


def _in_space(number: int, trial: StudyTrial, result: StudyTrialResult) -> list[TrialRecord]:
    """Return what a trial of a study did in a space."""
    runs = [run for run in result.runs if run.space in (number, None)]
    trained = [_trained(place, trial, run) for place, run in enumerate(runs)]
    if result.search is None or not runs:
        return trained
    return [_searched(trial, result.search), *trained]


def _searched(trial: StudyTrial, search: StudySearch) -> TrialRecord:
    return TrialRecord(
        parameters=SearchTrial(
            key=f"{trial.strategy}'s search",
            strategy=trial.strategy,
            task=trial.task,
            search=trial.strategy,
        ),
        status="succeeded",
        result=SearchTrialResult.model_validate(search.model_dump()),
    )


def _trained(place: int, trial: StudyTrial, run: StudyRun) -> TrialRecord:
    return TrialRecord(
        parameters=TrainTrial(
            key=f"{trial.strategy}-{place:03d}",
            strategy=trial.strategy,
            task=trial.task,
            decoupling=run.decoupling,
            train={**trial.train, "seed": run.seed},
            ideal_speedup=1 / run.largest_share,
        ),
        status="succeeded",
        result=TrainTrialResult(
            default=run.validation_accuracy,
            test_accuracy=run.test_accuracy,
            time_s=run.time_s,
            images=run.images,
            peak_memory_mib=run.peak_memory_mib,
            parameters=run.parameters,
        ),
    )
