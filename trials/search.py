"""Search for decouplings of a backbone on a data set and say what came of it.

A directory that was searched in holds ``run.json`` (what was searched) and ``results.json``; while
the search is under way in place of the latter ``progress.json``, ``told.jsonl`` and, of a search
that keeps more, ``checkpoint/``.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, create_model

from sedona_nni.data.sets import load_splits
from sedona_nni.files import check_no_links, check_output_folder, write_json
from sedona_nni.searches import SEARCHES, SearchKind, SearchSetup
from sedona_nni.searches.progress import SearchProgress
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import check_choices, check_plain
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import fresh_in_words
from sedona_nni.trials.finished import finished_results
from sedona_nni.trials.retelling import Retelling
from sedona_nni.trials.run import RUN_FILE, Run, alone_in, weights_of

__all__ = ["run_search"]

_TOLD_FILE = "told.jsonl"

_logger = logging.getLogger(__name__)


def run_search(
    name: str,
    task: Task,
    settings: BaseModel,
    *,
    aux: Sequence[str],
    train: TrainSettings | None = None,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda numbers: None,
    directory: Path | None = None,
    num_reports: int = 75,
) -> dict[str, Any]:
    """Search as a search of some name does.

    Called again with the same directory it continues an interrupted search, and of a finished one
    it returns the results again. Torch's global generators are left as they were.

    Args:
        name: Of the search, see `sedona_nni.searches.SEARCHES`.
        task: Backbone and data.
        settings: How to search, of the search's own class.
        aux: Names of the auxiliary networks to choose from.
        train: How to train what is found, for a search that asks for it, see
            `SearchKind.uses_training`; others leave it aside. Its seed does not matter.
        device: Where.
        workers: Processes that read image files, see `sedona_nni.data.batches.FolderImages`.
        report: See `SearchSetup.report`; of an interrupted search it is told again what it was told
            before.
        directory: Where to keep checkpoints and leave the results.
        num_reports: See `SearchSetup.num_reports`.

    Returns:
        ``search``, the name; ``search_result``, the document that decouplings for every K derive
        from; ``default`` and ``images``, see `sedona_nni.searches.Findings`, and the search's own
        numbers; ``time_s``; ``processor_s``, of all threads of this process; ``data``, the
        fingerprint of the data set, see `sedona_nni.data.identity`; ``weights``, that of the task's
        file of weights, if any.

    Raises:
        InputError: if a name is unknown, numbers do not fit the backbone, or the directory holds
            another search or somebody is at work there.
    """
    kind = SEARCHES[name]
    if not kind.uses_training:
        train = None
    finished = None if directory is None else finished_results(directory)
    if directory is not None and finished is None:
        check_output_folder("directory", directory)
        check_no_links(directory / "checkpoint")
    check_choices(aux)
    check_plain(aux, "in a search")
    splits = load_splits(task, kind.validation_fraction(settings, train), workers=workers)
    weights = weights_of(task)
    what = {
        "task": task,
        "aux": aux,
        "settings": settings,
        "data": splits.identity,
        "weights": weights,
    }
    if train is not None:
        what["train"] = train
    run = _run_document(kind).model_validate(what)
    if directory is not None:
        run.check_goes_on(directory, "search")
    if finished is not None:
        return finished

    setup = SearchSetup(
        task=task,
        splits=splits,
        aux=tuple(aux),
        train=train,
        device=torch.device(device),
        report=report if directory is None else Retelling(directory / _TOLD_FILE, report),
        num_reports=num_reports,
        progress=SearchProgress(None if directory is None else directory / "progress.json"),
        directory=None if directory is None else directory / "checkpoint",
    )
    kind.check(setup, settings)
    if (fresh := fresh_in_words(task)) is not None:
        _logger.warning("weights: %s", fresh)
    with alone_in(directory):
        if directory is not None:
            # Whoever was at work here while this process got ready may have ended it
            if (finished := finished_results(directory)) is not None:
                return finished
            run.save(directory / RUN_FILE)
        found = kind.run(setup, settings)
        results = {
            "search": name,
            "default": found.default,
            **found.numbers,
            "time_s": setup.progress.time_s,
            "processor_s": setup.progress.processor_s,
            "images": found.images,
            "data": None if run.data is None else run.data.fingerprint,
            **({} if weights is None else {"weights": weights}),
            "search_result": found.outcome.model_dump(mode="json"),
        }
        if directory is not None:
            write_json(directory / "results.json", results)
            for name in ("progress.json", _TOLD_FILE):
                (directory / name).unlink(missing_ok=True)
            shutil.rmtree(directory / "checkpoint", ignore_errors=True)
    return results


class _Run(Run):
    """All that defines a search, as ``run.json``; with ``settings`` and ``train`` of its kind."""

    aux: tuple[str, ...]


def _run_document(kind: SearchKind[Any]) -> type[_Run]:
    """Return the form of the ``run.json`` of a search; older ones do not say which it is."""
    fields: dict[str, Any] = {
        "search": (Literal[kind.name], kind.name),
        "settings": (kind.settings, ...),
    }
    if kind.uses_training:
        fields["train"] = (TrainSettings, ...)
    return create_model("_Run", __base__=_Run, **fields)
