"""A probing as `record` calls one, which is as it was called when the traces were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.search import run_search

__all__ = ["run_probes"]


def run_probes(
    task: Task, train: TrainSettings, settings: ProbeSettings, *, aux: Sequence[str]
) -> dict[str, Any]:
    """Return the results of a probing."""
    return run_search("probe", task, settings, aux=aux, train=train)
