"""Searches of the task of a table, for trainings like its own, with what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from benchmarks.tabular.table import Table
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.errors import InputError
from sedona_nni.searches import SEARCHES
from sedona_nni.searches.documents import parse_result
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import run_training

__all__ = ["search", "search_settings"]


def search_settings(name: str, given: dict[str, Any], seed: int) -> BaseModel:
    """Return the settings of a search.

    Args:
        name: Of the search, see `sedona_nni.searches.SEARCHES`.
        given: Those that are not the defaults.
        seed: Its seed.

    Raises:
        InputError: if there is no such search, or a setting breaks a rule.
    """
    try:
        return SEARCHES[name].settings.model_validate({**given, "seed": seed})
    except ValidationError as error:
        raise InputError.from_validation(error, "--settings") from None


def search(
    table: Table, name: str, settings: BaseModel, directory: Path | None = None
) -> SearchOutcome:
    """Search the task of a table.

    Args:
        table: Gives task, training and auxiliary networks.
        name: Of the search.
        settings: Its settings.
        directory: Where an interrupted search left off, and leaves its results.

    Returns:
        What was found. Its provenance also has the cost: ``images``; ``time_s``, and
        ``processor_s``, which busy machines prolong less, beside ``training_s``, that of a training
        without cuts on the same machine, right after it; of a probing also ``trainings``, in full
        ones by MACs.
    """
    results = run_search(
        name,
        table.task,
        settings,
        aux=table.aux_choices,
        train=table.train,
        directory=directory,
    )
    training = run_training(table.task, table.undivided, table.train)
    spent = {
        "images": results["images"],
        "time_s": round(results["time_s"], 1),
        "processor_s": round(results["processor_s"], 2),
        "training_s": round(training["processor_s"], 2),
        "torch": torch.__version__,
    }
    if "trainings" in results:
        spent["trainings"] = round(results["trainings"], 4)
    result = parse_result(results["search_result"])
    return result.model_copy(update={"provenance": {**result.provenance, **spent}})
