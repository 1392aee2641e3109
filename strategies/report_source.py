"""Finds the experiments that a report is asked for: NNI's, running or not, or what they left."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.reporting.build import Source
from sedona_nni.reporting.ledger import Ledger, TrialRecord
from sedona_nni.strategies.checkpoint import LEDGER_FILE, TRIALS_FILE, ledger_in

__all__ = ["read_sources"]


def read_sources(targets: Sequence[str]) -> list[Source]:
    """Read experiments.

    Args:
        targets: Of each NNI's id, its folder of results, its folder in NNI's working directory, or
            its ledger. What exists as a path is taken for one.

    Raises:
        InputError: if there is no such experiment, it has no trials, its ledger is damaged, or it
            was named twice.
    """
    sources = [_read(target) for target in targets]
    for number, source in enumerate(sources):
        for other, target in zip(sources[:number], targets, strict=False):
            if source.records == other.records:
                raise InputError(f"{targets[number]}: is the same experiment as {target}")
    names = Counter(source.name for source in sources)
    return [
        source if names[source.name] == 1 else replace(source, name=target)
        for source, target in zip(sources, targets, strict=True)
    ]


def _read(target: str) -> Source:
    path = user_path(target)
    if path.exists() and not path.is_dir():
        return Source(_name(path.absolute()), _records(path))
    if path.is_dir():
        for folder in (path, path / "checkpoint"):
            if (ledger := ledger_in(folder)) is not None:
                return Source(_name(ledger.absolute()), _records(ledger))
        raise InputError(f"{target}: has neither {LEDGER_FILE} nor {TRIALS_FILE}")
    return _read_from_nni(target)


def _name(ledger: Path) -> str:
    """Return the name of the folder that is an experiment's, or else of the file."""
    if ledger.name not in (LEDGER_FILE, TRIALS_FILE):
        return ledger.stem
    folder = ledger.parent
    return folder.parent.name if folder.name == "checkpoint" else folder.name


def _read_from_nni(experiment_id: str) -> Source:
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.nni_border.launcher import (
        experiment_config,
        experiment_folder,
        is_running,
    )

    path = ledger_in(experiment_folder(experiment_id) / "checkpoint")
    if path is None:
        raise InputError(f"experiment {experiment_id} has no trials yet, or is not one of ours")
    planned = None
    with contextlib.suppress(InputError):  # a file that its settings name may have gone
        planned = Experiment.from_config(experiment_config(experiment_id)).settings.num_trials
    return Source(experiment_id, _records(path), is_running(experiment_id), planned)


def _records(path: Path) -> list[TrialRecord]:
    return list(Ledger(path))
