"""What became of every trial of an experiment, in one file.

The tuner writes it; the closing table needs nothing else, so it can also be made while the
experiment runs and when NNI's manager is long gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from typing_extensions import Self

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, write_json

__all__ = ["Ledger", "TrialRecord"]


class TrialRecord(BaseModel):
    """One trial.

    Attributes:
        parameters: All that defines the trial, with ``"key"``, ``"stage"`` and ``"strategy"``.
        status: Whether it has ended, and how.
        result: Its final result, once it has succeeded.
        reason: Why it failed or was stopped, once it has.
        share_done: How much of a training was done when it was stopped early, a fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: dict[str, Any]
    status: Literal["running", "succeeded", "failed", "stopped"] = "running"
    result: dict[str, Any] | None = None
    reason: str | None = None
    share_done: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("key", "stage", "strategy"):
            if not isinstance(self.parameters.get(name), str):
                raise ValueError(f"parameters must have a text {name}, but got {self.parameters}")
        return self

    @property
    def key(self) -> str:
        """Its name, unique in the experiment."""
        return str(self.parameters["key"])

    @property
    def stage(self) -> str:
        """``"search"`` or ``"train"``."""
        return str(self.parameters["stage"])

    @property
    def strategy(self) -> str:
        """What its decoupling comes from, e.g. ``"sedona"``."""
        return str(self.parameters["strategy"])

    @property
    def method(self) -> str:
        """Name of the method that it trains with, see `sedona_nni.training.methods`."""
        settings = {
            **self.parameters.get("train", {}),
            **self.parameters.get("hyperparameters", {}),
        }
        method = settings.get("method", "greedy")
        return method if isinstance(method, str) else str(method["name"])

    @property
    def validation_accuracy(self) -> float:
        """The accuracy that trials are chosen by, a fraction; only of a succeeded trial."""
        assert self.result is not None
        return float(self.result["default"])

    @property
    def second_value(self) -> list[float | None]:
        """What a training is judged by beside its accuracy: nothing, or peak memory in MiB or ideal
        speed-up; None if that is not known."""
        second = self.parameters.get("second_objective")
        if second is None:
            return []
        if second == "memory":
            return [(self.result or {}).get("peak_memory_mib")]
        return [self.parameters["ideal_speedup"]]


class _LedgerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["sedona-nni/trials/1"] = "sedona-nni/trials/1"
    trials: list[TrialRecord] = []


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
            self._records = {record.key: record for record in stored.trials}

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> TrialRecord:
        return self._records[key]

    def start(self, parameters: dict[str, Any]) -> None:
        """Enter a trial that is handed out, or forget how it ended earlier."""
        self._put(TrialRecord(parameters=parameters))

    def succeed(self, key: str, result: dict[str, Any]) -> None:
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
        stored = _LedgerFile(trials=list(self._records.values()))
        write_json(self.path, stored.model_dump(mode="json", exclude_none=True))
