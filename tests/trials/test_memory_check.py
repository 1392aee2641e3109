"""A training that cannot fit into memory is refused before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni import free_memory
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.free_memory import available_bytes
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials import memory_check
from sedona_nni.trials import train as trial
from sedona_nni.trials.memory_check import check_fits, needed_bytes

CPU = torch.device("cpu")
TASK = Task(backbone="vgg11", width_multiplier=0.25, train_limit=60)
CUT = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
MIB = 2**20


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"batch_size": 16, "epochs": 1, **changes})


def test_what_is_left_on_this_machine() -> None:
    left = available_bytes(CPU)
    assert left is None or 100 * MIB < left < 2**50


def test_a_container_may_have_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it caches of files can be given up; without a limit the machine's is."""
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    left = available_bytes(CPU)
    (tmp_path / "memory.current").write_text(f"{60 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {20 * MIB}\n")
    (tmp_path / "memory.max").write_text("max\n")
    without = available_bytes(CPU)
    (tmp_path / "memory.max").write_text(f"{90 * MIB}\n")
    if left is not None:  # else there is nothing to read here
        assert without is not None
        assert without > 90 * MIB
        assert available_bytes(CPU) == 50 * MIB


def test_of_each_process() -> None:
    (whole,) = needed_bytes(TASK, Decoupling(backbone="vgg11"), settings(), CPU)
    (one,) = needed_bytes(TASK, CUT, settings(), CPU)
    ranks = needed_bytes(TASK, CUT, settings(parallel="blocks"), CPU)
    assert len(ranks) == 2
    assert max(ranks) < one < whole < sum(ranks) + one
    assert needed_bytes(TASK, CUT, settings(method="sequential"), CPU) == [max(ranks)]
    doubled = settings(parallel={"name": "blocks", "replicas": [2, 1]})
    replicated = needed_bytes(TASK, CUT, doubled, CPU)
    assert replicated[0] == replicated[1] < ranks[0]
    assert replicated[2] == ranks[1]


def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing may be loaded or built")

    monkeypatch.setattr(trial, "load_splits", forbidden)
    monkeypatch.setattr(memory_check, "available_bytes", lambda device: MIB)
    with pytest.raises(InputError) as caught:
        trial.run_training(TASK, CUT, settings(), directory=tmp_path / "new")
    message = str(caught.value)
    assert message.startswith("memory: this training needs at least ")
    assert "but cpu has 1 MiB left" in message
    assert "--force" in message
    assert "\n" not in message
    assert not (tmp_path / "new").exists()
    with pytest.raises(AssertionError, match="nothing may be loaded"):
        trial.run_training(TASK, CUT, settings(), check_memory=False)


def test_processes_on_one_device_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parallel = settings(parallel="blocks")
    ranks = needed_bytes(TASK, CUT, parallel, CPU)
    monkeypatch.setattr(memory_check, "available_bytes", lambda device: max(ranks) + 1)
    with pytest.raises(InputError, match="memory: "):
        check_fits(TASK, CUT, parallel, [CPU])
    check_fits(TASK, CUT, parallel, [CPU, torch.device("meta")])  # each its own
    monkeypatch.setattr(memory_check, "available_bytes", lambda device: None)
    check_fits(TASK, CUT, parallel, [CPU])
