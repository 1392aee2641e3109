"""Trainings that a study compares: each contender with each seed, kept in files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sedona_nni.decouplings.rules import decoupling_by_rule
from sedona_nni.files import read_json, write_json
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_layers
from sedona_nni.trials.train import run_training

__all__ = ["Training", "kept_trainings"]


@dataclass(frozen=True)
class Training:
    """What a contender trains.

    Attributes:
        task: Network and data.
        rule: Its cuts, see `sedona_nni.decouplings.rules`.
        settings: With the first of the seeds.
    """

    task: Task
    rule: str
    settings: TrainSettings


def kept_trainings(
    contenders: Mapping[str, Training], seeds: int, directory: Path
) -> dict[str, list[dict[str, Any]]]:
    """Train every contender with every seed, but for what ``directory`` has of an earlier call.

    Args:
        contenders: By name.
        seeds: How many, from that of the settings on.
        directory: Where each finished training leaves a file.

    Returns:
        Of each contender what `run_training` returns, ``seed`` and ``cpu_s``, processor time of the
        trial with loading, measuring and testing, seed by seed.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(seeds):  # seed by seed, so that an interrupted call leaves comparable ones
        for name, training in contenders.items():
            found[name].append(_kept(name, training, training.settings.seed + number, directory))
    return found


def _kept(name: str, training: Training, seed: int, directory: Path) -> dict[str, Any]:
    task, settings = training.task, training.settings.model_copy(update={"seed": seed})
    trained = {  # where files lie makes no other training
        "task": task.model_dump(mode="json", exclude={"data_dir", "weights"}),
        "train": settings.model_dump(mode="json"),
    }
    path = directory / f"{name.replace(',', '').replace(' ', '-')}-{seed}.json"
    if path.exists() and (earlier := read_json(path))["trained"] == trained:
        result: dict[str, Any] = earlier["result"]
        return result
    decoupling = decoupling_by_rule(training.rule, task.backbone, task_layers(task))
    started = time.process_time()
    result = run_training(task, decoupling, settings)
    result = {**result, "seed": seed, "cpu_s": time.process_time() - started}
    write_json(path, {"trained": trained, "result": result})
    Console(stderr=True).print(f"{name}, seed {seed}: {result['test_accuracy']:.2%}")
    return result
