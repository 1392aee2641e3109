"""The trials of a study as reports understand them: each replicate an experiment in each space.

A study's trial lets a strategy choose decouplings in every space; see `trials.study`. What it
trained in a space, and its search, become trials of their own. A search serves all spaces, and is
in each of them, so each is charged it in full, as the study does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.results import is_of_study

__all__ = ["unfolded"]


class _Space(BaseModel):
    num_blocks: int
    max_block_share: str | None = None

    @property
    def in_words(self) -> str:
        words = f"{self.num_blocks} blocks"
        return words if self.max_block_share is None else f"{words} within {self.max_block_share}"


class _Given(BaseModel):
    replicate: int
    spaces: list[_Space] = Field(min_length=1)


class _Run(BaseModel):
    space: int | None
    seed: int
    decoupling: dict[str, Any]
    validation_accuracy: float
    test_accuracy: float
    time_s: float
    images: float
    peak_memory_mib: float
    parameters: int
    largest_share: float = Field(gt=0)


class _Search(BaseModel):
    time_s: float
    images: float
    search_result: dict[str, Any]


class _Result(BaseModel):
    runs: list[_Run]
    search: _Search | None


def unfolded(name: str, records: Sequence[TrialRecord]) -> dict[str, dict[str, list[TrialRecord]]]:
    """Return the trials of a study: by space in words, then by replicate.

    Args:
        name: Of the study.
        records: Its trials; what has not ended or failed has nothing to return.

    Raises:
        InputError: if a trial is not of a study, or makes no sense.
    """
    found: dict[str, dict[str, list[TrialRecord]]] = {}
    for record in records:
        if not is_of_study(record):
            raise InputError(f"{name}: {record.key}: is not of a study, unlike others")
        try:
            given = _Given.model_validate(record.parameters)
            result = None if record.result is None else _Result.model_validate(record.result)
        except ValidationError as error:
            raise InputError.from_validation(error, f"{name}: {record.key}") from None
        replicate = f"{name} #{given.replicate}"
        for number, space in enumerate(given.spaces):
            own = found.setdefault(space.in_words, {}).setdefault(replicate, [])
            if result is not None:
                own += _in_space(number, record, result)
    return found


def _in_space(number: int, record: TrialRecord, result: _Result) -> list[TrialRecord]:
    """Return what a trial of a study did in a space."""
    runs = [run for run in result.runs if run.space in (number, None)]
    found = []
    if result.search is not None and runs:
        kind = "probe" if "losses" in result.search.search_result else "search"
        stage = {"key": f"{record.strategy}'s search", "stage": "search"}
        found.append(_succeeded(record, stage | {kind: {}}, result.search.model_dump()))
    for place, run in enumerate(runs):
        train = {**record.parameters.get("train", {}), "seed": run.seed}
        more = {"decoupling": run.decoupling, "train": train}
        numbers = run.model_dump(exclude={"space", "seed", "decoupling", "largest_share"})
        numbers["ideal_speedup"] = 1 / run.largest_share
        numbers["default"] = run.validation_accuracy
        stage = {"key": f"{record.strategy}-{place:03d}", "stage": "train"}
        found.append(_succeeded(record, stage | more, numbers))
    return found


def _succeeded(record: TrialRecord, more: dict[str, Any], result: dict[str, Any]) -> TrialRecord:
    shared = {"strategy": record.strategy, "task": record.parameters.get("task", {})}
    return TrialRecord(parameters=shared | more, status="succeeded", result=result)
