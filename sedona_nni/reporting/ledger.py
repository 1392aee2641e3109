"""What became of every trial of an experiment, in one file.

The tuner writes it; the closing table needs nothing else, so it can also be made while the
experiment runs and when NNI's manager is long gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, write_json
from sedona_nni.reporting.trial import (
    AnyResult,
    AnyTrial,
    SearchTrial,
    TrainTrial,
    TrainTrialResult,
    read_result,
)

__all__ = ["Ledger", "TrialRecord"]


class TrialRecord(BaseModel):
    """One trial.

    Attributes:
        parameters: All that defines the trial.
        status: Whether it has ended, and how.
        result: Its final result, once it has succeeded.
        reason: Why it failed or was stopped, once it has.
        share_done: How much of a training was done when it was stopped early, a fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: AnyTrial
    status: Literal["running", "succeeded", "failed", "stopped"] = "running"
    result: AnyResult | None = None
    reason: str | None = None
    share_done: float | None = None

    @field_validator("result", mode="before")
    @classmethod
    def _of_its_kind(cls, given: Any, info: ValidationInfo) -> Any:
        trial = info.data.get("parameters")
        return read_result(trial, given) if trial is not None and given is not None else given

    @property
    def key(self) -> str:
        """Its name, unique in the experiment."""
        return self.parameters.key

    @property
    def strategy(self) -> str:
        """What its decoupling comes from, e.g. ``"sedona"``."""
        return self.parameters.strategy

    @property
    def is_search(self) -> bool:
        """Whether it is a search; all others train."""
        return isinstance(self.parameters, SearchTrial)

    @property
    def validation_accuracy(self) -> float:
        """The accuracy that trials are chosen by, a fraction; only of a succeeded trial."""
        assert self.result is not None
        assert self.result.default is not None
        return self.result.default

    @property
    def second_value(self) -> list[float | None]:
        """What a training is judged by beside its accuracy: nothing, or peak memory in MiB or ideal
        speed-up; None if that is not known."""
        trial = self.parameters
        if not isinstance(trial, TrainTrial) or trial.second_objective is None:
            return []
        if trial.second_objective == "memory":
            return [
                self.result.peak_memory_mib if isinstance(self.result, TrainTrialResult) else None
            ]
        return [trial.ideal_speedup]


class _LedgerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["sedona-nni/trials/1", "sedona-nni/trials/2"] = "sedona-nni/trials/2"
    trials: list[dict[str, Any]] = []


class Ledger:
    """The trials in the order in which they were handed out; every change is saved at once.

    Args:
        path: The file, which need not exist yet.

    Raises:
        InputError: if the file is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, TrialRecord] = {}
        if path.exists():
            try:
                stored = _LedgerFile.model_validate(read_json(path))
            except ValidationError as error:
                raise InputError.from_validation(error, str(path)) from None
            records = [_read(path, number, given) for number, given in enumerate(stored.trials)]
            self._records = {record.key: record for record in records}

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> TrialRecord:
        return self._records[key]

    def start(self, parameters: AnyTrial) -> None:
        """Enter a trial that is handed out, or forget how it ended earlier."""
        self._put(TrialRecord(parameters=parameters))

    def succeed(self, key: str, result: AnyResult) -> None:
        """Enter the final result of a trial."""
        parameters = self._records[key].parameters
        self._put(TrialRecord(parameters=parameters, status="succeeded", result=result))

    def fail(self, key: str, reason: str) -> None:
        """Enter that a trial ended without a usable result."""
        parameters = self._records[key].parameters
        self._put(TrialRecord(parameters=parameters, status="failed", reason=reason))

    def stop(self, key: str, reason: str, share_done: float) -> None:
        """Enter that a training is stopped before its end, as there is no hope for it."""
        parameters = self._records[key].parameters
        self._put(
            TrialRecord(
                parameters=parameters, status="stopped", reason=reason, share_done=share_done
            )
        )

    def _put(self, record: TrialRecord) -> None:
        self._records[record.key] = record
        trials = [
            each.model_dump(mode="json", exclude_none=True) for each in self._records.values()
        ]
        write_json(self.path, _LedgerFile(trials=trials).model_dump(mode="json"))


def _read(path: Path, number: int, given: dict[str, Any]) -> TrialRecord:
    try:
        return TrialRecord.model_validate(given)
    except ValidationError as error:
        parameters = given.get("parameters")
        key = parameters.get("key") if isinstance(parameters, dict) else None
        name = key if isinstance(key, str) else f"trials.{number}"
        raise InputError.from_validation(error, f"{path}: {name}") from None
