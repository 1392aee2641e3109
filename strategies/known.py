"""The experiments of this user that NNI knows of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sedona_nni.errors import InputError
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.checkpoint import LEDGER_FILE, ledger_in
from sedona_nni.strategies.nni_border.launcher import all_experiments, experiment_config

__all__ = ["KnownExperiment", "known_experiments"]


class KnownExperiment(BaseModel):
    """An experiment.

    Attributes:
        id: NNI's name of it.
        name: That in its file.
        state: ``running``; ``finished`` if all its trials have ended; ``failed`` if the tuner gave
            up; else ``stopped``: `sedona-nni resume` goes on.
        ended: Trials that have ended, well or not.
        planned: All trials, None if that is unknown.
        best: Validation accuracy of the best training, a fraction; None without one.
        best_strategy: The strategy that it is of.
        started: When.
        folder: Where NNI keeps it.
        web_ui: Where it is shown, of a running one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    state: Literal["running", "finished", "failed", "stopped"]
    ended: int
    planned: int | None
    best: float | None
    best_strategy: str | None
    started: datetime
    folder: Path
    web_ui: str | None


def known_experiments() -> list[KnownExperiment]:
    """Return the experiments of our tuners, the latest first."""
    found = list(_found())
    return sorted(found, key=lambda experiment: experiment.started, reverse=True)


def _found() -> Iterator[KnownExperiment]:
    for name, stored in all_experiments().items():
        folder = Path(stored["logDir"]) / name
        config: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # whatever a missing or damaged data base raises
            config = experiment_config(name)
        if _is_ours(config, folder):
            yield _known(stored, folder, config)


def _is_ours(config: dict[str, Any], folder: Path) -> bool:
    tuner = (config.get("tuner") or {}).get("className") or ""
    return (
        tuner.removeprefix("sedona_nni.").startswith("strategies.")
        or ledger_in(folder / "checkpoint") is not None
    )


def _known(stored: dict[str, Any], folder: Path, config: dict[str, Any]) -> KnownExperiment:
    path = folder / "checkpoint" / LEDGER_FILE
    records = []
    with contextlib.suppress(InputError):  # damaged: `report` says so
        records = list(Ledger(path))
    ended = sum(record.status != "running" for record in records)
    trained = [r for r in records if not r.is_search and r.status == "succeeded"]
    best = max(trained, key=lambda record: record.validation_accuracy, default=None)
    planned = config.get("maxTrialNumber")
    running = stored["status"] not in ("DONE", "ERROR", "STOPPED", "VIEWED")
    return KnownExperiment(
        id=stored["id"],
        name=stored["experimentName"] or "",
        state=_state(stored["status"], running, planned is not None and ended >= planned),
        ended=ended,
        planned=planned,
        best=None if best is None else best.validation_accuracy,
        best_strategy=None if best is None else best.strategy,
        started=datetime.fromtimestamp(stored["startTime"] / 1000).astimezone(),
        folder=folder,
        web_ui=f"http://127.0.0.1:{stored['port']}" if running else None,
    )


def _state(
    status: str, running: bool, complete: bool
) -> Literal["running", "finished", "failed", "stopped"]:
    if running:
        return "running"
    if status == "ERROR":
        return "failed"
    return "finished" if complete or status == "DONE" else "stopped"
