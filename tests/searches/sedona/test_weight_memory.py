"""Which snapshots a full memory keeps, and that its files are what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sedona_nni.searches.sedona.inner_step import TrainingState
from sedona_nni.searches.sedona.weight_memory import Eviction, WeightMemory


def state(step: int) -> TrainingState:
    return TrainingState(torch.full((3,), float(step)), torch.ones(1, 3), torch.zeros(2), step)


def steps(memory: WeightMemory) -> list[int]:
    return [snapshot.state.step for snapshot in memory.snapshots]


@pytest.mark.parametrize(
    ("eviction", "kept"),
    [
        ("oldest", [30, 40, 50]),
        # errors are 0.5, 0.1, 0.4, 0.2, 0.3: first 10 goes (0.5), then 30 (0.4)
        ("worst", [20, 40, 50]),
        # 10 20 30 40: 20 spans 20, 30 spans 20, the first goes; 10 30 40 50: 40 spans 20
        ("spread", [10, 30, 50]),
    ],
)
def test_eviction(eviction: Eviction, kept: list[int]) -> None:
    memory = WeightMemory(3, eviction)
    for step, error in zip([10, 20, 30, 40, 50], [0.5, 0.1, 0.4, 0.2, 0.3], strict=True):
        memory.store(state(step), error)
    assert steps(memory) == kept


def test_spread_covers_all_of_training() -> None:
    memory = WeightMemory(8, "spread")
    for step in range(500):
        memory.store(state(step), 0.0)
    gaps = [b - a for a, b in zip(steps(memory), steps(memory)[1:], strict=False)]
    assert steps(memory)[0] == 0
    assert steps(memory)[-1] == 499
    assert max(gaps) <= 3 * 499 / 7


@pytest.mark.parametrize("eviction", ["spread", "oldest", "worst"])
def test_memory_of_one_follows_one_trajectory(eviction: Eviction) -> None:
    memory = WeightMemory(1, eviction)
    memory.store(state(1), 0.5)
    assert memory.take(torch.Generator()).step == 1
    memory.store(state(2), 0.4)
    assert steps(memory) == [2]


def test_take_is_uniform_and_removes() -> None:
    counts = dict.fromkeys(range(4), 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        memory = WeightMemory(4)
        for step in range(4):
            memory.store(state(step), 0.0)
        taken = memory.take(generator).step
        assert taken not in steps(memory)
        counts[taken] += 1
    assert all(420 < count < 580 for count in counts.values())  # 500 +- 4 sigma


def test_files(tmp_path: Path) -> None:
    memory = WeightMemory(3, "oldest")
    for step in range(3):
        memory.store(state(step), step / 10)
    memory.save(tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 3

    memory.store(state(7), 0.7)
    listed = memory.save(tmp_path)
    memory.forget(tmp_path)
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(now) == 3
    assert len(now.items() & written.items()) == 2  # only the new one was written

    stale = WeightMemory(3, "oldest")  # another search's files of the same names are no snapshots
    stale.store(state(99), 0.0)
    stale.save(tmp_path / "other")
    for number in (2, 3):
        (tmp_path / "other" / f"snapshot-{number}.safetensors").write_bytes(b"left behind")
    memory.save(tmp_path / "other")
    WeightMemory(3, "oldest").load(tmp_path / "other", listed)

    loaded = WeightMemory(3, "oldest")
    loaded.load(tmp_path, listed)
    assert steps(loaded) == [1, 2, 7]
    for ours, theirs in zip(memory.snapshots, loaded.snapshots, strict=True):
        assert (ours.number, ours.error) == (theirs.number, theirs.error)
        assert torch.equal(ours.state.weights, theirs.state.weights)
        assert torch.equal(ours.state.slots, theirs.state.slots)
        assert torch.equal(ours.state.statistics, theirs.state.statistics)
    loaded.store(state(8), 0.0)
    assert loaded.snapshots[-1].number == 4  # no name is used twice
