"""What became of every trial of an experiment, in one file.

The tuner writes it; the closing table needs nothing else, so it can also be made while the
experiment runs and when NNI's manager is long gone.

The file grows by a line for each thing that happens, so that a change takes as long after ten
thousand trials as after ten:

    {"format": "sedona-nni/trials/3"}
    {"parameters": {"key": "sedona-000", ...}}                         it was handed out
    {"key": "sedona-000", "status": "succeeded", "result": {...}}      or failed, or stopped

A last line without its end was being written when the writer died, or still is: it does not count.
Among results, and in experiments of before, there is one document in its place, see
`Ledger.document`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, write_at, write_atomically
from sedona_nni.garbage import nothing_collected
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


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["sedona-nni/trials/1", "sedona-nni/trials/2"] = "sedona-nni/trials/2"
    trials: list[dict[str, Any]] = []


_FIRST_LINE = b'{"format": "sedona-nni/trials/3"}\n'


class Ledger:
    """The trials in the order in which they were handed out; every change is saved at once.

    One process changes it; others may read it meanwhile.

    Args:
        path: The file, which need not exist yet. In its place a document of its name, with the
            suffix ``.json``, is taken over, as experiments of before have it.

    Raises:
        InputError: if the file is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, TrialRecord] = {}
        self._end = 0  # of the lines that are known; 0 where there are none but maybe a document
        self.refresh()

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> TrialRecord:
        return self._records[key]

    def refresh(self) -> None:
        """Take in what another process has added since.

        Raises:
            InputError: if the file is not a ledger, or is one no more.
        """
        with nothing_collected():
            try:
                self._read_on()
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _read_on(self) -> None:
        if self._end == 0 and not _has_lines(self.path):
            self._read_document()
            return
        with self.path.open("rb") as lines:
            lines.seek(self._end)
            added = lines.read()
        added = added[: added.rfind(b"\n") + 1]  # without what is being written
        first = len(_FIRST_LINE) if self._end == 0 else 0
        if self._end == 0:
            self._records = {}
        self._fold(added[first:].splitlines())
        self._end += len(added)

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

    def document(self) -> dict[str, Any]:
        """Return all of it as one document, ``sedona-nni/trials/2``: ``trials``, a list of
        ``parameters``, ``status``, and ``result``, ``reason`` or ``share_done`` where there is."""
        return _Document(trials=[_dumped(record) for record in self]).model_dump(mode="json")

    def _put(self, record: TrialRecord) -> None:
        self._records[record.key] = record
        if self._end == 0:
            lines = _FIRST_LINE + b"".join(line for each in self for line in _lines(each))
            write_atomically(self.path, lambda path: path.write_bytes(lines))
            if self.path != _former(self.path):
                _former(self.path).unlink(missing_ok=True)
            self._end = len(lines)
        else:
            line = _lines(record)[-1]
            write_at(self.path, self._end, line)
            self._end += len(line)

    def _read_document(self) -> None:
        path = self.path if self.path.exists() else _former(self.path)
        if not path.exists():
            return
        try:
            stored = _Document.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError.from_validation(error, str(path)) from None
        self._take(path, enumerate(stored.trials))

    def _fold(self, lines: Iterable[bytes]) -> None:
        """Take in what has happened to trials: what came last of each is what counts."""
        stories: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                event = json.loads(line)
                if "parameters" in event:
                    stories[event["parameters"]["key"]] = event
                    continue
                key = event.pop("key")
                started = stories.get(key) or {"parameters": self._records[key].parameters}
                stories[key] = {"parameters": started["parameters"], **event}
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                shown = line.decode(errors="replace")[:60]
                raise InputError(
                    f"{self.path}: must have events of trials, but got {shown}"
                ) from None
        self._take(self.path, stories.items())

    def _take(self, path: Path, stories: Iterable[tuple[object, Mapping[str, Any]]]) -> None:
        for name, story in stories:
            record = _read(path, name, story)
            self._records[record.key] = record


def _has_lines(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE


def _former(path: Path) -> Path:
    return path.with_suffix(".json")


def _dumped(record: TrialRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)


def _lines(record: TrialRecord) -> list[bytes]:
    """Return a trial as lines of a file: that it was handed out, and what came of it if it has."""
    what = _dumped(record)
    events = [{"parameters": what.pop("parameters")}]
    if record.status != "running":
        events.append({"key": record.key, **what})
    return [json.dumps(event).encode() + b"\n" for event in events]


def _read(path: Path, name: object, given: Mapping[str, Any]) -> TrialRecord:
    try:
        return TrialRecord.model_validate(given)
    except ValidationError as error:
        parameters = given.get("parameters")
        key = parameters.get("key") if isinstance(parameters, dict) else name
        where = key if isinstance(key, str) else f"trials.{name}"
        raise InputError.from_validation(error, f"{path}: {where}") from None
