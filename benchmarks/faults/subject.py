"""What faults are done to: a command of the product, that can be run again and goes on."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import psutil
import yaml

from benchmarks.faults.home import Command, Home

__all__ = ["EXPERIMENT", "Subject", "lasting"]

EXPERIMENT = "experiment.yml"
"""The file of the experiment in every home."""

_STARTER = "sedona_nni.training.parallel"
_NEVER_TWICE = {
    *("time_s", "processor_s", "images_per_s", "peak_resident_mib"),
    "ranks",  # what each of them took
}


class Subject(ABC):
    """One kind of it.

    Attributes:
        name: In records.
        victims: The processes that it may have, as `find` knows them.
        computing: Those of them that search or train, and so need memory.
    """

    name: str
    victims: tuple[str, ...]
    computing: tuple[str, ...]

    @abstractmethod
    def words(self, home: Home) -> list[str]:
        """Return the words after ``sedona-nni`` that begin in a new home, or go on in any other."""

    @abstractmethod
    def results(self, home: Home) -> dict[str, Any]:
        """Return what is finished by now, by the names of its parts."""

    def end(self, home: Home) -> dict[str, Any]:
        """Return what has come of all of it, which is the same however often it was disturbed."""
        return self.results(home)

    def is_begun(self, home: Home) -> bool:
        """Return whether there is something that `words` would go on with."""
        return True

    def prepare(self, home: Home, is_parallel: bool) -> None:
        """Write what `words` needs.

        Args:
            home: A new one.
            is_parallel: Whether trainings are in parallel.
        """
        (home.folder / EXPERIMENT).write_text(yaml.safe_dump(_experiment(is_parallel)))

    def find(self, victim: str, home: Home, command: Command) -> psutil.Process | None:
        """Return a process, None while there is none."""
        if victim == "command":
            return psutil.Process(command.process.pid) if command.code is None else None
        for process in home.processes():
            with contextlib.suppress(psutil.Error):
                if self.is_victim(victim, process.cmdline(), process.environ()):
                    return process
                if victim == "rank" and _is_rank(process):
                    return process
        return None

    def is_victim(self, victim: str, words: list[str], environment: Mapping[str, str]) -> bool:
        """Return whether a process is one of those that only this subject has."""
        return False


def lasting(results: Any) -> Any:
    """Return what is the same every time of results."""
    if isinstance(results, dict):
        return {name: lasting(value) for name, value in results.items() if name not in _NEVER_TWICE}
    return [lasting(each) for each in results] if isinstance(results, list) else results


def _is_rank(process: psutil.Process) -> bool:
    """Return whether it is a fork of a starter of ranks, and so is called as that is."""
    words, parent = process.cmdline(), process.parent()
    return _STARTER in words and parent is not None and parent.cmdline() == words


def _experiment(is_parallel: bool) -> dict[str, Any]:
    """Return an experiment of a search and a training of what it finds, of a moment each."""
    task = {"backbone": "dgl-cnn4", "width_multiplier": 0.0625, "image_size": 8}
    train = {"epochs": 30, "batch_size": 20, "lr": 0.05, "validation_fraction": 0.2}
    return {
        "experimentName": "faults",
        "trialCommand": "sedona-nni-trial",
        "trialCodeDirectory": ".",
        "trialConcurrency": 1,
        "trainingService": {"platform": "local"},
        "searchSpace": {"lr": {"_type": "loguniform", "_value": [0.01, 0.1]}},
        "tuner": {
            "className": "sedona_nni.strategies.tuner.ProbeTuner",
            "codeDirectory": ".",
            "classArgs": {
                "task": {**task, "dataset": "digits", "train_limit": 100},
                "num_blocks": 2,
                "aux": ["mlp", "mlp-sr"],
                "probe": {"cost": 1},
                "train": {**train, "parallel": "blocks" if is_parallel else "no"},
                "trials_per_strategy": 1,
                "device": "cpu",
                "threads": 1,
            },
        },
    }
