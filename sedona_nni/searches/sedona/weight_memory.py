"""Snapshots of training that meta-steps start from.

A meta-step looks T steps ahead of some moment of training. Which moments it sees decides what the
search learns: the memory keeps a limited number of them and lets old ones go.
Source: Pyeon et al., "SEDONA", ICLR 2021, section 3 (the memory). Its release always evicts the
oldest snapshot, so that its memory ends with the last tenth of training alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sedona_nni.files import reading, write_atomically
from sedona_nni.searches.sedona.inner_step import TrainingState

__all__ = ["Eviction", "Snapshot", "WeightMemory"]

Eviction = Literal["spread", "oldest", "worst"]


@dataclass(frozen=True)
class Snapshot:
    """A moment of training, on the CPU.

    Attributes:
        number: How many snapshots were stored before this one; it names the snapshot's file.
        state: The moment.
        error: Error rate on validation images when it was stored, a fraction.
    """

    number: int
    state: TrainingState
    error: float


class WeightMemory:
    """At most ``capacity`` snapshots; one more pushes one out.

    Which one goes is the choice of ``eviction``:

    - ``spread``: the one that its neighbours in time can best do without, i.e. the one (but the
      first and the last) with the least steps between its predecessor and its successor. The
      memory stays spread over all of training.
    - ``oldest``: the one of the earliest step.
    - ``worst``: the one with the highest error.

    Attributes:
        snapshots: What it holds, in the order of their steps.
    """

    def __init__(self, capacity: int, eviction: Eviction = "spread") -> None:
        self.capacity = capacity
        self.eviction = eviction
        self.snapshots: list[Snapshot] = []
        self._stored = 0
        self._written: set[Path] = set()

    def __len__(self) -> int:
        return len(self.snapshots)

    def store(self, state: TrainingState, error: float) -> None:
        """Add a moment of training; the memory may evict one, possibly this one."""
        on_cpu = TrainingState(
            state.weights.cpu(), state.slots.cpu(), state.statistics.cpu(), state.step
        )
        self.snapshots.append(Snapshot(self._stored, on_cpu, error))
        self.snapshots.sort(key=lambda snapshot: (snapshot.state.step, snapshot.number))
        self._stored += 1
        if len(self) > self.capacity:
            del self.snapshots[self._dispensable()]

    def take(self, generator: torch.Generator) -> TrainingState:
        """Remove a uniformly drawn snapshot and return its state."""
        index = int(torch.randint(len(self), (), generator=generator))
        return self.snapshots.pop(index).state

    def _dispensable(self) -> int:
        everyone = range(len(self))
        if self.eviction == "worst":
            return max(everyone, key=lambda i: self.snapshots[i].error)
        if self.eviction == "oldest" or len(self) < 3:
            return 0
        steps = [snapshot.state.step for snapshot in self.snapshots]
        return min(everyone[1:-1], key=lambda i: steps[i + 1] - steps[i - 1])

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the snapshots that have not been written to ``directory``, and return their list.

        Snapshots never change, so a checkpoint costs only what is new since the last one. Files
        of evicted snapshots stay until `forget`, as an earlier list may still name them.
        """
        for snapshot in self.snapshots:
            path = directory / _file_name(snapshot.number)
            if path not in self._written:
                tensors = {
                    "weights": snapshot.state.weights,
                    "slots": snapshot.state.slots,
                    "statistics": snapshot.state.statistics,
                }
                write_atomically(path, partial(save_file, tensors))
                self._written.add(path)
        return {
            "stored": self._stored,
            "snapshots": [
                {"number": s.number, "step": s.state.step, "error": s.error} for s in self.snapshots
            ],
        }

    def load(self, directory: Path, listed: dict[str, Any]) -> None:
        """Take up what `save` wrote and returned.

        Raises:
            InputError: if a file is missing or damaged.
        """
        self._stored = listed["stored"]
        self.snapshots = []
        for entry in listed["snapshots"]:
            path = directory / _file_name(entry["number"])
            with reading(path), safe_open(path, framework="pt") as file:
                state = TrainingState(
                    file.get_tensor("weights"),
                    file.get_tensor("slots"),
                    file.get_tensor("statistics"),
                    entry["step"],
                )
            self.snapshots.append(Snapshot(entry["number"], state, entry["error"]))
            self._written.add(path)

    def forget(self, directory: Path) -> None:
        """Delete the files of snapshots that the memory no longer holds."""
        kept = {_file_name(snapshot.number) for snapshot in self.snapshots}
        for path in directory.glob(_file_name("*")):
            if path.name not in kept:
                path.unlink()
                self._written.discard(path)


def _file_name(number: int | str) -> str:
    return f"snapshot-{number}.safetensors"
