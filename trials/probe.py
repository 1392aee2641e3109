"""Probe a backbone on a data set and say what came of it, see `searches.probing.probing`.

A directory that was probed in holds ``run.json`` (what was probed) and ``results.json``; while it
is under way ``progress.json`` in place of the latter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.files import check_output_folder, read_json, reading, write_json
from sedona_nni.progress import tracked
from sedona_nni.searches.probing.probing import (
    Probe,
    ProbeSettings,
    local_loss,
    probe_steps,
    probes,
)
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials.finished import finished_results
from sedona_nni.trials.run import RUN_FILE, Run

__all__ = ["run_probes"]


class _Run(Run):
    """All that defines a probing, as ``run.json``."""

    aux: tuple[str, ...]
    train: TrainSettings
    settings: ProbeSettings


def run_probes(
    task: Task,
    train: TrainSettings,
    settings: ProbeSettings,
    *,
    aux: Sequence[str],
    device: torch.device | str = "cpu",
    workers: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda numbers: None,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Try every single cut with every auxiliary network for a short time, and no cut.

    Called again with the same directory it continues an interrupted probing, and of a finished one
    it returns the results again. Torch's global generators are left as they were.

    Args:
        task: Backbone and data.
        train: Of the full trainings that a decoupling is wanted for; its seed does not matter.
        settings: How to probe.
        aux: Names of the auxiliary networks to choose from.
        device: Where.
        workers: Processes that read image files, see `sedona_nni.data.batches.FolderImages`.
        report: Called after every probe with its ``loss``, what was ``probed`` (a text), its number
            as ``probe``, from 1, of ``probes``, and the ``least_loss`` so far.
        directory: Where to keep what has been found and to leave the results.

    Returns:
        ``search_result``, the `ProbeResult` that decouplings for every K derive from; ``default``,
        minus the least loss; ``steps`` of each probe; ``trainings``, what all cost in full
        trainings, by MACs; ``images`` that the steps took; ``time_s``; ``data``, the fingerprint
        of the data set, see `sedona_nni.data.identity`.

    Raises:
        InputError: if a name is unknown, the cost allows no step, or the directory holds another
            probing.
        DivergedError: if a loss is not finite.
    """
    device = torch.device(device)
    found: list[float] = []
    spent = 0.0
    finished = None if directory is None else finished_results(directory)
    if directory is not None and finished is None:
        check_output_folder("directory", directory)
    splits = load_splits(task, train.validation_fraction, workers=workers)
    run = _Run(task=task, aux=tuple(aux), train=train, settings=settings, data=splits.identity)
    if directory is not None:
        run.check_goes_on(directory, "probing")
    if finished is not None:
        return finished
    if directory is not None and (kept := directory / "progress.json").exists():
        with reading(kept, "remove it to start again"):
            progress = read_json(kept)
            found, spent = [float(loss) for loss in progress["losses"]], progress["time_s"]

    with torch.device("meta"):
        counted = task_backbone(task)
    stream = BatchStream(splits.train, train.batch_size, train.seed, "cpu")
    # A batch has at most the images that there are; a probe's is a part of what it does have
    train = train.model_copy(update={"batch_size": stream.batch_size})
    full = train.epochs * stream.batches_per_epoch
    batch_size = settings.batch_size(train)
    batches = full * train.batch_size / batch_size
    steps, trainings = probe_steps(compute_in_macs(counted, aux), settings.cost, batches)
    if directory is not None:
        run.save(directory / RUN_FILE)

    started = time.perf_counter() - spent
    generators = [device] if device.type == "cuda" else []
    candidates = list(probes(task.backbone, counted.num_layers, aux))
    for number in range(1, len(found) + 1):
        report(_numbers(found[:number], candidates))
    for probe in tracked(candidates[len(found) :], "probing", done=len(found)):
        with torch.random.fork_rng(devices=generators):
            short = settings.short(train, probe.seed_offset)
            torch.manual_seed(short.seed)
            backbone = task_backbone(task)
            found.append(local_loss(backbone, probe.decoupling, splits, short, steps, device))
        spent = time.perf_counter() - started
        if directory is not None:
            write_json(directory / "progress.json", {"losses": found, "time_s": spent})
        report(_numbers(found, candidates))

    undivided = [
        loss for loss, probe in zip(found, candidates, strict=True) if not probe.decoupling.cuts
    ]
    local = found[len(undivided) :]
    rows = [local[i : i + len(aux)] for i in range(0, len(local), len(aux))]
    result = ProbeResult(
        backbone=task.backbone,
        dataset=task.dataset,
        aux_choices=list(aux),
        losses=rows,
        undivided=float(np.mean(undivided)),
        provenance={"steps": steps, "batch_size": batch_size, "seed": settings.seed},
    )
    results = {
        "default": -min(found),
        "steps": steps,
        "trainings": trainings,
        "images": len(found) * steps * batch_size,
        "time_s": spent,
        "data": None if run.data is None else run.data.fingerprint,
        "search_result": result.model_dump(mode="json"),
    }
    if directory is not None:
        write_json(directory / "results.json", results)
        (directory / "progress.json").unlink()
    return results


def _numbers(found: Sequence[float], candidates: Sequence[Probe]) -> dict[str, Any]:
    tried = candidates[len(found) - 1].decoupling
    return {
        "loss": found[-1],
        "least_loss": min(found),
        "probe": len(found),
        "probes": len(candidates),
        "probed": tried.in_words() if tried.cuts else "no cut",
    }
