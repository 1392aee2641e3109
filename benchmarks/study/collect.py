"""From the ledgers of experiments to the study's document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from benchmarks.record import Header
from benchmarks.study.document import Study
from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger, TrialRecord

__all__ = ["collect"]

_DIGITS = 5  # more than one test image in 10,000
_COMMON = ("aux", "train", "spaces", "budget")
_OF_SEARCHES = {"sedona": ("pretrain_share", "meta_share", "search"), "probe": ("probe",)}
_RUN_FIELDS = (
    "space",
    "seed",
    "validation_accuracy",
    "test_accuracy",
    "time_s",
    "images",
    "macs",
    "parameters",
    "peak_memory_mib",
    "largest_share",
)


def collect(ledgers: Sequence[Ledger], header: Header) -> Study:
    """Make a document of all trials that succeeded.

    Args:
        ledgers: Of experiments of `strategies.study.StudyTuner`, any number for each net; the first
            that has finished a trial counts.
        header: How the experiments were made; its ``n`` becomes the number of replicates.

    Raises:
        InputError: if there is no such trial, or not all trials of a net have the same settings.
    """
    by_net: list[tuple[dict[str, Any], dict[str, TrialRecord]]] = []
    for ledger in ledgers:
        for record in ledger:
            if record.status != "succeeded":
                continue
            if "replicate" not in record.parameters:
                raise InputError.rule(
                    f"{ledger.path}: trial {record.key}", "must be one of a study", record.strategy
                )
            task = record.parameters["task"]
            found = next((found for known, found in by_net if known == task), None)
            if found is None:
                found = {}
                by_net.append((task, found))
            found.setdefault(record.key, record)
    if not by_net:
        raise InputError(f"{ledgers[0].path}: no trial has succeeded yet")
    try:
        nets = [_net(task, list(found.values())) for task, found in by_net]
        study = Study.model_validate({"header": header, "nets": nets})
    except ValidationError as error:
        raise InputError.from_validation(error, "ledgers") from None
    return study.model_copy(update={"header": header.model_copy(update={"n": study.replicates})})


def _net(task: dict[str, Any], records: Sequence[TrialRecord]) -> dict[str, Any]:
    known: dict[str, TrialRecord] = {}
    for record in records:
        for name in (*_COMMON, *_OF_SEARCHES.get(record.strategy, ())):
            first = known.setdefault(name, record)
            if record.parameters[name] != first.parameters[name]:
                raise InputError(f"trial {record.key}: must have the {name} of {first.key}")
    searches = {
        strategy: {name: known[name].parameters[name] for name in names}
        for strategy, names in _OF_SEARCHES.items()
        if names[0] in known
    }
    return {
        "task": task,
        **{name: known[name].parameters[name] for name in _COMMON},
        "searches": searches,
        "trials": [_trial(record) for record in records],
    }


def _trial(record: TrialRecord) -> dict[str, Any]:
    result = record.result or {}
    return {
        "key": record.key,
        "strategy": record.strategy,
        "replicate": record.parameters["replicate"],
        **_rounded({name: result[name] for name in ("time_s", "images")}),
        "search": None if result["search"] is None else _rounded(result["search"]),
        "runs": [_run(run) for run in result["runs"]],
        "picks": [pick for pick in result["picks"] if pick is not None],
        "left_out": result["left_out"],
    }


def _run(run: dict[str, Any]) -> dict[str, Any]:
    cut = {name: run["decoupling"][name] for name in ("cuts", "aux")}
    return {**_rounded({name: run[name] for name in _RUN_FIELDS}), **cut}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without digits that say nothing."""
    return {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in values.items()
    }
