"""The search by short trainings, on the task of a table."""

from __future__ import annotations

import time

import torch

from benchmarks.tabular.table import Table
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.trials.search import run_search

__all__ = ["probe"]


def probe(table: Table, settings: ProbeSettings) -> ProbeResult:
    """Probe the task of a table, for trainings like its own.

    Args:
        table: Gives task, training and auxiliary networks.
        settings: Cost and seed.

    Returns:
        What was found. Its provenance also has the cost: ``trainings``, in full ones by MACs;
        ``images``; ``time_s``, and ``processor_s``, which busy machines prolong less.
    """
    started = time.process_time()
    results = run_search("probe", table.task, settings, aux=table.aux_choices, train=table.train)
    spent = {
        "trainings": round(results["trainings"], 4),
        "images": results["images"],
        "time_s": round(results["time_s"], 1),
        "processor_s": round(time.process_time() - started, 1),
        "torch": torch.__version__,
    }
    result = ProbeResult.model_validate(results["search_result"])
    return result.model_copy(update={"provenance": {**result.provenance, **spent}})
