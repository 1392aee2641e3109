"""Train one decoupling from scratch and say what came of it and what it cost.

In place of a decoupling there may be a search result: then the relaxed network is trained, as the
search left alpha and beta. A directory that was trained into holds ``run.json`` (what was trained),
``decoupling.json`` or ``search-result.json``, ``images.json`` (how images have to be),
``model.safetensors`` (the epoch that validated best) and ``results.json``; while training is under
way ``checkpoint.pt`` in place of the last two.
"""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field

from sedona_nni.data.expected_images import IMAGES_FILE, ExpectedImages
from sedona_nni.data.sets import BatchStream, Splits, load_splits
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.cost import (
    Cost,
    block_costs,
    heavy_auxiliary,
    peak_memory_mib,
    relaxed_cost,
)
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import check_no_links, check_output_folder, write_json
from sedona_nni.machine import keep_freed_memory, peak_resident_mib, usable_cores
from sedona_nni.models.placement import place
from sedona_nni.models.pretrained import copy_of
from sedona_nni.plugins import loaded_plugins
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.training.evaluation import Evaluation, evaluate
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import train, training_stream
from sedona_nni.training.methods import TrainingMethod, build_method
from sedona_nni.training.parallel.host import is_launched, leads_host, shows
from sedona_nni.training.parallel.launch import train_as_rank, train_in_parallel
from sedona_nni.training.parallel.rank import Job, Outcome
from sedona_nni.training.settings import Parallel, TrainSettings
from sedona_nni.training.stage import CHECKPOINT_FILE, CHECKPOINTS
from sedona_nni.training.task_backbone import check_pretrained_rate, fresh_in_words, task_backbone
from sedona_nni.training.weights import MODEL_FILE, load_weights
from sedona_nni.trials.finished import finished_results, model_folder
from sedona_nni.trials.memory_check import check_fits, needed_bytes
from sedona_nni.trials.run import RUN_FILE, Run, alone_in, weights_of

__all__ = [
    "TrainingRun",
    "evaluate_saved",
    "parallel_job",
    "run_training",
    "step_memory_mib",
    "thinned_history",
]

_logger = logging.getLogger(__name__)

_EPOCHS_KEPT = 100  # of a history: a curve needs no more, and every result is in the ledger


class TrainingRun(Run):
    """All that defines a training, as ``run.json``."""

    decoupling: Annotated[Decoupling | SearchResult, Field(discriminator="format")]
    settings: TrainSettings


def run_training(
    task: Task,
    decoupling: Decoupling | SearchResult,
    settings: TrainSettings,
    *,
    device: torch.device | str | Sequence[torch.device] = "cpu",
    workers: int | None = None,
    report: Callable[[dict[str, float]], None] = lambda numbers: None,
    directory: Path | None = None,
    check_memory: bool = True,
) -> dict[str, Any]:
    """Train a decoupling as `sedona_nni.training.loop.train` does and measure it.

    From now on the process keeps memory that it frees, see `sedona_nni.machine.keep_freed_memory`.

    Called again with the same directory it continues an interrupted training; of a finished one it
    returns the results again. Initial weights of the backbone depend on the task and the seed, not
    on the decoupling.

    Args:
        task: Backbone and data.
        decoupling: Where to cut, and with which auxiliary networks; or how much, everywhere.
        settings: How to train.
        device: Where; of a training in parallel, for each of its processes, or ``cpu`` for all.
        workers: Processes that read image files, see `sedona_nni.data.batches.FolderImages`.
        report: Called with the numbers of every epoch.
        directory: Where to leave the trained network and its results, and to keep checkpoints.
        check_memory: Refuse what is larger than the memory that is left, see
            `sedona_nni.trials.memory_check`; not under a launcher, and not a search result.

    Returns:
        ``default`` (best validation accuracy), ``loss`` (validation loss of that epoch),
        ``test_accuracy`` and ``test_loss`` of the same weights, ``test_ensemble_accuracy`` where
        an ensemble was asked for, ``best_epoch``, ``parameters`` and ``macs`` (per image) with
        auxiliary networks and what else the method trains, ``peak_memory_mib`` (see below) and
        ``time_s`` of the training, and ``processor_s`` that all its processes used, see
        `sedona_nni.training.loop.TrainResult`.
        The peak is that of a training step on ``device`` with everything it needs: weights,
        optimizer state, gradients, activations and what the step computes on the way, but not
        the images. ``peak_resident_mib`` is the most main memory that the process had until the
        training's end, with Python, torch, the data set and evaluation.
        ``ideal_peak_memory_mib`` is the peak of the step of the largest block in a process of its
        own, as `sedona_nni.trials.memory_check.needed_bytes` counts it.
        Of a training in parallel, ``ranks``: what each process needed, see
        `sedona_nni.training.parallel.rank.RankReport`; both peaks are the largest of theirs.
        ``device``, ``cpu`` or ``cuda``, and ``cores``: processors that the CPU threads of all
        processes could keep busy.
        ``images`` that the steps took, and ``images_per_s``; ``ideal_speedup`` of a decoupling by
        MACs, see `Compute.largest_share`.
        For reports: ``data``, the fingerprint of the data set, see
        `sedona_nni.data.identity`; ``weights``, that of the task's file of weights, if any;
        ``history``, by name the values of what was
        reported, after each epoch or, of many, after 100 of them, None where there was none;
        ``compute``, a `decouplings.compute.Compute` of the backbone and the decoupling's auxiliary
        networks, and ``sizes``, height and width of every layer's maps; neither of a search result.

    Raises:
        InputError: if task and decoupling do not fit, the directory holds another training or
            somebody is at work there, or there is not enough memory.
        DivergedError: if the loss does not stay finite.
    """
    keep_freed_memory()
    check_pretrained_rate(task, settings)
    finished = None if directory is None else finished_results(directory)
    if directory is not None and finished is None:
        check_output_folder("directory", directory)
        check_no_links(directory / CHECKPOINTS)
    if isinstance(decoupling, SearchResult):
        _check_relaxed(settings)
    checked = check_memory and finished is None and not is_launched()
    if checked and isinstance(decoupling, Decoupling):
        places = [device] if isinstance(device, str | torch.device) else device
        bounded = _bounded(settings, task, decoupling)
        _check_replicas(decoupling, bounded)
        check_fits(task, decoupling, bounded, [*map(torch.device, places)])
    splits = load_splits(task, settings.validation_fraction, workers=workers)
    if isinstance(decoupling, Decoupling):
        _check_replicas(decoupling, settings.of(len(splits.train)))
    run = TrainingRun(
        task=task,
        decoupling=decoupling,
        settings=settings,
        data=splits.identity,
        weights=weights_of(task),
    )
    if directory is not None:
        run.check_goes_on(directory, "training")
    if finished is not None:
        return finished

    fresh = fresh_in_words(task)
    if fresh is None and settings.lr_pretrained == 0:
        rule = "must be above 0 where the classifier is the file's, or reset_classifier true"
        raise InputError.rule("lr_pretrained", rule, settings.lr_pretrained)
    job = parallel_job(run, device, workers, directory)
    network = _initial_network(task, decoupling, settings.seed)
    if leads_host():
        if fresh is not None:
            _logger.warning("weights: %s", fresh)
        if isinstance(decoupling, Decoupling):
            _warn_of_weight(task, decoupling)
    costs = _costs(task, decoupling) + _method(network, settings, splits).extra_cost()
    anatomy = _anatomy(task, decoupling)  # before the training: what cannot be told ends it here
    with alone_in(directory if shows() else None):
        if directory is not None:
            # Whoever was at work here while this process got ready may have ended it
            if not is_launched() and (finished := finished_results(directory)) is not None:
                return finished
            run.save(directory / RUN_FILE)
            ExpectedImages.of(splits).save(directory / IMAGES_FILE)
            kind = "decoupling" if isinstance(decoupling, Decoupling) else "search-result"
            decoupling.save(directory / f"{kind}.json")
        epochs: list[dict[str, float]] = []

        def note(numbers: dict[str, float]) -> None:
            epochs.append({name: value for name, value in numbers.items() if name != "epochs"})
            report(numbers)

        if job is None:
            device = torch.device(cast(torch.device | str, device))
            peak = step_memory_mib(run, splits, device)
            trained = train(
                network, splits, settings, device=device, report=note, directory=directory
            )
            needed: dict[str, Any] = {
                "peak_memory_mib": peak,
                "peak_resident_mib": peak_resident_mib(),
                "processor_s": trained.processor_s,
                "device": device.type,
                "cores": min(torch.get_num_threads(), usable_cores()),
            }
        else:
            del network  # each process makes its own block
            outcome = train_as_rank(job, note) if is_launched() else train_in_parallel(job, note)
            trained = outcome.trained
            needed = _needed_by_ranks(job, outcome)
        stream = training_stream(splits, settings, "cpu")
        images = len(epochs) * stream.batches_per_epoch * stream.batch_size
        results = {
            "default": trained.validation_accuracy,
            "loss": trained.validation_loss,
            **_test_numbers(trained.test, settings),
            "best_epoch": trained.best_epoch,
            **asdict(costs),
            **needed,
            **_ideal_peak(run, settings.of(len(splits.train)), needed["device"]),
            "time_s": trained.time_s,
            "images": images,
            "images_per_s": images / trained.time_s,
            "history": thinned_history(epochs),
            "data": None if run.data is None else run.data.fingerprint,
            **({} if run.weights is None else {"weights": run.weights}),
            **anatomy,
        }
        if directory is not None and leads_host():
            write_json(directory / "results.json", results)
            (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
            shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    return results


def _ideal_peak(run: TrainingRun, settings: TrainSettings, device: str) -> dict[str, float]:
    """Return what a step takes in the largest of K processes with a block each; none of plug-ins'
    networks that cannot be run dry, and of a relaxed network."""
    if isinstance(run.decoupling, SearchResult):
        return {}
    divided = settings.model_copy(update={"parallel": settings.parallel or Parallel()})
    try:
        needed = needed_bytes(run.task, run.decoupling, divided, torch.device(device))
    except RuntimeError:
        return {}
    return {"ideal_peak_memory_mib": max(needed) / 2**20}


def _needed_by_ranks(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Return what the processes of a training took, as results."""
    threads = job.threads * len(outcome.ranks)
    return {
        "peak_memory_mib": max(rank.step_peak_mib for rank in outcome.ranks),
        "peak_resident_mib": max(rank.peak_resident_mib for rank in outcome.ranks),
        "processor_s": sum(rank.processor_s for rank in outcome.ranks),
        "device": torch.device(job.devices[0]).type,
        # A launcher's are on hosts of which nothing is known here
        "cores": threads if is_launched() else min(threads, usable_cores()),
        "ranks": [asdict(rank) for rank in outcome.ranks],
    }


def _bounded(settings: TrainSettings, task: Task, decoupling: Decoupling) -> TrainSettings:
    """Return the settings with batches of not more images than a task has, as far as that is known
    before they are loaded; they can be parted as is wanted, whatever comes of the real ones."""
    if task.train_limit is None:
        return settings
    images = task.train_limit - int(settings.validation_fraction * task.train_limit)
    replicas: tuple[int, ...] = (1,)
    if settings.parallel is not None and decoupling.cuts:
        replicas = settings.parallel.replicas_of(decoupling.num_blocks)
    most, step = images * settings.views, settings.together * math.lcm(*replicas)
    if settings.batch_size <= most:
        return settings
    least = settings.least_batch * max(replicas)
    size = max(most // step * step, -(-least // step) * step)
    return settings.model_copy(update={"batch_size": size})


def _check_relaxed(settings: TrainSettings) -> None:
    """Check that nothing is wanted of blocks or of layers, of which a relaxed network knows none.

    Raises:
        InputError: if it is.
    """
    parallel = "no" if settings.parallel is None else settings.parallel.name
    for name, none, given in (
        ("parallel", "no", parallel),
        ("checkpoint", "no", settings.checkpoint),
        ("transport", 0, settings.transport),
    ):
        if given != none:
            rule = f"must be {none} for a relaxed network, which has no blocks"
            raise InputError.rule(name, rule, given)


def _check_replicas(decoupling: Decoupling, settings: TrainSettings) -> None:
    """Check that the processes of each block can divide every batch among themselves.

    Raises:
        InputError: if not.
    """
    if settings.parallel is None or not decoupling.cuts:
        return
    replicas = settings.parallel.replicas_of(decoupling.num_blocks)
    whole = settings.batch_size // settings.together
    if uneven := [count for count in replicas if whole % count]:
        rule = f"must divide the batch of {settings.batch_size} images evenly"
        if settings.together > 1:
            rule += f", in {settings.together} at a time: views of an image by parts of a batch"
        raise InputError.rule("parallel.replicas", rule, uneven[0])
    least, count = settings.least_batch, max(replicas)
    if count > 1 and settings.batch_size // count < least:
        rule = f"must leave each process {least} of the {settings.batch_size} images of a batch"
        raise InputError.rule("parallel.replicas", rule, count)


def parallel_job(
    run: TrainingRun,
    device: torch.device | str | Sequence[torch.device],
    workers: int | None,
    directory: Path | None,
) -> Job | None:
    """Return what the processes of a training in parallel have to know.

    Args:
        run: What is trained.
        device: See `run_training`; like the following.
        workers: See there.
        directory: See there.

    Returns:
        None where all is trained in one process, as what is not cut always is.

    Raises:
        InputError: if it cannot be trained so.
    """
    parallel = run.settings.parallel
    if parallel is None or isinstance(run.decoupling, SearchResult):
        return None
    if run.decoupling.num_blocks == 1:
        return None
    replicas = parallel.replicas_of(run.decoupling.num_blocks)
    count = sum(replicas)
    devices = [device] * count if isinstance(device, str | torch.device) else device
    if len(devices) < count:
        raise InputError.rule("device", f"must be {count}, one for each process", len(devices))
    return Job(
        task=run.task,
        decoupling=run.decoupling,
        settings=run.settings,
        devices=[str(each) for each in devices],
        threads=max(1, torch.get_num_threads() // (1 if is_launched() else count)),
        workers=workers,
        directory=None if directory is None else str(directory.absolute()),
        plugins=loaded_plugins(),
    )


def evaluate_saved(
    directory: Path,
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    data_dir: str | None = None,
    ensemble: int | None = None,
) -> dict[str, float]:
    """Test a network that `run_training` left in ``directory``.

    Args:
        directory: Holds ``run.json`` and ``model.safetensors``; or the results of an experiment.
        device: Where to compute.
        workers: Processes that read image files, see `sedona_nni.data.batches.FolderImages`.
        data_dir: Where the data set is now, by default where it was.
        ensemble: Size of the ensemble, by default that of the training's settings.

    Returns:
        ``test_accuracy``, ``test_loss``, where an ensemble was asked for
        ``test_ensemble_accuracy``, ``block_1_accuracy`` ... of every block's classifier and, where
        the directory says what it was trained with, ``same_data``, whether the data set is that.

    Raises:
        InputError: if a file is missing or does not hold what it should, or the data set's classes
            are not those that were learned.
    """
    directory = model_folder(directory)
    run = TrainingRun.load(directory / RUN_FILE)
    settings = run.settings
    if ensemble is not None:
        settings = settings.model_copy(update={"ensemble": ensemble})
    task = run.task.model_copy(update={"weights": None})  # all that it had given has been trained
    fraction = settings.validation_fraction
    if data_dir is not None:  # its test part alone is of use, however few others there are
        task = task.model_copy(update={"data_dir": data_dir, "train_limit": None})
        fraction = 0.5
    splits = load_splits(task, fraction, workers=workers)
    same: dict[str, float] = {}
    if run.data is not None and splits.identity is not None:
        splits.identity.check_classes(run.data, str(directory))
        same["same_data"] = splits.identity.fingerprint == run.data.fingerprint
    network = _initial_network(task, run.decoupling, settings.seed)
    load_weights(network, directory / MODEL_FILE)
    test = evaluate(place(network, device), splits.test, settings, device)
    return _test_numbers(test, settings) | test.block_accuracies | same


def _initial_network(
    task: Task, decoupling: Decoupling | SearchResult, seed: int
) -> DecoupledNetwork:
    if isinstance(decoupling, Decoupling):
        return initial_network(task, decoupling, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_relaxed(task_backbone(task), decoupling)


def _costs(task: Task, decoupling: Decoupling | SearchResult) -> Cost:
    with torch.device("meta"):
        backbone = task_backbone(task)
    if isinstance(decoupling, SearchResult):
        return relaxed_cost(backbone, decoupling.aux_choices)
    return sum((block.training for block in block_costs(backbone, decoupling)), Cost(0, 0))


def _warn_of_weight(task: Task, decoupling: Decoupling) -> None:
    with torch.device("meta"):
        heavy = heavy_auxiliary(task_backbone(task), decoupling)
    if heavy is not None:
        _logger.warning("%s", heavy)


def _anatomy(task: Task, decoupling: Decoupling | SearchResult) -> dict[str, Any]:
    """Return what a drawing of the network needs."""
    if isinstance(decoupling, SearchResult):
        return {}
    with torch.device("meta"):
        backbone = task_backbone(task)
    compute = compute_in_macs(backbone, sorted(set(decoupling.aux) - {NO_AUXILIARY}))
    sizes = [shape.size for shape in backbone.shapes]
    return {
        "ideal_speedup": 1 / compute.largest_share(decoupling),
        "compute": compute.model_dump(mode="json"),
        "sizes": sizes,
    }


def thinned_history(epochs: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Return at most 100 of the epochs, evenly spaced, with 5 digits of every number."""
    count = min(len(epochs), _EPOCHS_KEPT)
    kept = [epochs[round(i)] for i in np.linspace(0, len(epochs) - 1, count)]
    names = dict.fromkeys(name for numbers in epochs for name in numbers)
    return {
        name: [float(f"{row[name]:.5g}") if name in row else None for row in kept] for name in names
    }


def _steps_per_epoch(settings: TrainSettings, splits: Splits) -> int:
    return training_stream(splits, settings, "cpu").batches_per_epoch


def _method(network: DecoupledNetwork, settings: TrainSettings, splits: Splits) -> TrainingMethod:
    """Return what would train the network; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build_method(network, settings, splits, _steps_per_epoch(settings, splits))


def step_memory_mib(run: TrainingRun, splits: Splits, device: torch.device) -> float:
    """Return the most memory that training steps allocate, MiB.

    They are those of a network of its own, copied within the measurement, as it counts.
    """
    settings = run.settings
    images, labels = next(BatchStream(splits.train, settings.batch_size, 0, device).iterate())

    def some_steps() -> TrainingMethod:
        method = _method(place(copy_of(network), device), settings, splits)
        method.rehearse(images, labels)
        return method

    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # as in `train`
        network = _initial_network(run.task, run.decoupling, settings.seed)
        return peak_memory_mib(some_steps, device)


def _test_numbers(test: Evaluation, settings: TrainSettings) -> dict[str, float]:
    numbers = {"test_accuracy": test.accuracies[-1], "test_loss": test.loss}
    if settings.ensemble > 1:
        numbers["test_ensemble_accuracy"] = test.ensemble_accuracy
    return numbers
