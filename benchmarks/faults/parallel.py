"""Trainings in parallel, by themselves, of which something is killed or stopped at any epoch.

Everything ends in time and says why, no process is left, the checkpoint is whole, and what resumes
from it ends as if nothing had happened, to the bit.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import ne
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.broken import Broken
from benchmarks.small_training import SmallTraining, epochs_of, start
from sedona_nni.errors import SedonaError
from sedona_nni.files import read_json, read_tensors

__all__ = [
    "FAULTS",
    "METHODS",
    "Round",
    "check_checkpoint",
    "check_same",
    "disturb",
    "do_round",
    "finish",
    "small",
]

FAULTS = ("rank killed", "rank stopped", "starter killed", "caller killed")
METHODS = ("greedy", "sequential", "ddg")
_MOST_BLOCKS = 4
_EPOCHS = 12
_AT_START = 0.2  # of all faults, before there is an epoch
_START_S = 3.0  # which is about as long as it takes to the first epoch
_EPOCH_S = 0.2  # within which a fault comes after an epoch
_LATE_S = 15.0  # beyond patience, for all to end, also where other programs compute
_LONGEST_S = 300.0
_RESULTS = ("default", "loss", "test_accuracy", "test_loss", "best_epoch", "history")  # no times


@dataclass(frozen=True)
class Round:
    """What is done in a round, and what came of it.

    Attributes:
        number: From 1.
        num_blocks: K.
        method: How the blocks learn.
        fault: One of `FAULTS`.
        rank: To whom, of a rank's.
        epoch: After which epoch, 0 for the start.
        delay_s: Seconds after that.
        end_s: Seconds until all had ended.
        epochs: Whole epochs by then, of the checkpoint.
        reason: Why it failed; None if it did not.
    """

    number: int
    num_blocks: int
    method: str
    fault: str
    rank: int
    epoch: int
    delay_s: float
    end_s: float | None = None
    epochs: int | None = None
    reason: str | None = None

    @classmethod
    def at_random(cls, seed: int, number: int) -> Round:
        """Return what a round does."""
        source = random.Random(f"{seed}/{number}")
        num_blocks = source.randint(2, _MOST_BLOCKS)
        at_start = source.random() < _AT_START
        return cls(
            number,
            num_blocks,
            source.choice(METHODS),
            source.choice(FAULTS),
            source.randrange(num_blocks),
            epoch=0 if at_start else source.randint(1, _EPOCHS - 1),
            delay_s=source.uniform(0, _START_S if at_start else _EPOCH_S),
        )

    @property
    def kind(self) -> str:
        """Its row in tables."""
        return f"training in parallel, by itself: {self.fault}"

    @property
    def in_words(self) -> str:
        """What it does, in a line."""
        who = f"{self.fault}, rank {self.rank}" if "rank" in self.fault else self.fault
        when = f"{self.delay_s:.2f} s after epoch {self.epoch}"
        return f"training in parallel, K = {self.num_blocks}, {self.method}: {who}, {when}"


def small(
    num_blocks: int, method: str, *, epochs: int = _EPOCHS, patience_s: float = 5, **changes: Any
) -> dict[str, Any]:
    """Return a training that takes a moment, as `benchmarks.small_training.start` wants it.

    Args:
        num_blocks: K, up to 4.
        method: How the blocks learn.
        epochs: How long.
        patience_s: See `sedona_nni.training.settings.Parallel`.
        changes: Other training settings.
    """
    from sedona_nni.decouplings.decoupling import uniform_cuts

    backbone, cuts = "dgl-cnn4", [*uniform_cuts(4, num_blocks)]
    aux = "none" if method == "ddg" else "mlp"
    task = {"backbone": backbone, "width_multiplier": 0.0625, "image_size": 8, "train_limit": 100}
    settings = {"epochs": epochs, "batch_size": 20, "lr": 0.05, "method": method}
    parallel = {"patience_s": patience_s, **changes.pop("parallel", {})}
    return {
        "task": {**task, "dataset": "digits"},
        "decoupling": {"backbone": backbone, "cuts": cuts, "aux": [aux] * len(cuts)},
        "settings": {**settings, "parallel": parallel, **changes},
    }


def do_round(
    planned: Round, patience_s: float, folder: Path, undisturbed: dict[tuple[int, str], Path]
) -> Round:
    """Do a round.

    Args:
        planned: What to do.
        patience_s: Of the training.
        folder: For this round and all others.
        undisturbed: Trainings without a fault, by K and method; those that are missing are made.

    Returns:
        What was planned, with what came of it.
    """
    what = small(planned.num_blocks, planned.method, patience_s=patience_s)
    place = folder / f"round-{planned.number}"
    found: dict[str, Any] = {}
    try:
        found |= disturb(planned, start(place, what), patience_s)
        # One that had come to its end has nothing more to report
        is_finished = (place / "trained" / "results.json").exists()
        reported = epochs_of(place) if is_finished else []
        found["epochs"] = check_checkpoint(place / "trained", planned.num_blocks)
        finish(start(place, what))
        setting = (planned.num_blocks, planned.method)
        if setting not in undisturbed:
            other = folder / f"undisturbed-{planned.num_blocks}-{planned.method}"
            finish(start(other, what))
            undisturbed[setting] = other
        check_same(place, undisturbed[setting], reported)
    except (Broken, SedonaError) as error:
        found["reason"] = str(error)
    shutil.rmtree(place)
    return Round(**{**asdict(planned), **found})


def disturb(
    planned: Round, training: SmallTraining, patience_s: float, late_s: float = _LATE_S
) -> dict[str, float]:
    """Do the fault, and wait until all have ended.

    Args:
        planned: What to do.
        training: To whom.
        patience_s: Of the training.
        late_s: How much longer it may take until all have ended.

    Returns:
        ``end_s``, see `Round`.

    Raises:
        Broken: if some have not in time, or it does not say what happened.
    """
    try:
        if planned.epoch:
            training.wait_for_epoch(planned.epoch)
        time.sleep(planned.delay_s)
        did = _do(planned, training)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.wait(patience_s + late_s)
        left = training.left_after(began + patience_s + late_s - time.monotonic())
        took = time.monotonic() - began
        if left:
            raise Broken(f"after {took:.0f} s {len(left)} processes are left: {training.errors()}")
        if did:
            _check_line(planned, training)
        return {"end_s": round(took, 2)}
    finally:
        training.end()


def _do(planned: Round, training: SmallTraining) -> bool:
    """Return whether there was still somebody to whom it could be done."""
    finders: dict[str, Callable[[], psutil.Process | None]] = {
        "caller killed": lambda: psutil.Process(training.process.pid),
        "starter killed": training.starter,
        "rank killed": lambda: training.rank(planned.rank),
        "rank stopped": lambda: training.rank(planned.rank),
    }
    while training.process.poll() is None:
        with contextlib.suppress(psutil.Error):
            if (victim := finders[planned.fault]()) is not None:
                (victim.suspend if planned.fault == "rank stopped" else victim.kill)()
                return True
        time.sleep(0.01)
    return False


def _check_line(planned: Round, training: SmallTraining) -> None:
    """See that the caller has said in one line what happened, if there was time for it."""
    code, said = training.process.returncode, training.errors()
    if code == 0:  # it was at the end already
        return
    who = rf"rank {planned.rank} \(block {planned.rank + 1} of {planned.num_blocks}\)"
    line, expected = {
        "caller killed": ("", -9),
        "starter killed": ("sedona-nni: the process that starts the ranks was killed .*\n", 1),
        "rank killed": (rf"sedona-nni: {who} was killed by SIGKILL\n", 1),
        "rank stopped": (rf"sedona-nni: {who} has given no sign of life for .*\n", 1),
    }[planned.fault]
    if code != expected or not re.fullmatch(line, said):
        raise Broken(f"exit code {code}, and it says {said!r}")


def check_checkpoint(directory: Path, num_ranks: int) -> int:
    """Return of how many epochs the checkpoint in a directory is; 0 without one.

    Raises:
        Broken: if a rank's file of that epoch is missing or damaged.
    """
    folder = directory / "checkpoint"
    if not (folder / "manifest.json").exists():
        return 0
    epoch = int(read_json(folder / "manifest.json")["epoch"])
    for rank in range(num_ranks):
        try:
            state = read_tensors(folder / f"epoch-{epoch}.rank-{rank}.pt")
        except SedonaError as error:
            raise Broken(f"the checkpoint is not whole: {error}") from None
        if len(state["history"]) != epoch:
            raise Broken(f"rank {rank} kept {len(state['history'])} epochs as epoch {epoch}")
    return epoch


def finish(training: SmallTraining) -> None:
    """Wait for the end of an undisturbed training.

    Raises:
        Broken: if it does not come to a good one.
    """
    try:
        code = training.wait(_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise Broken(f"it was not at its end after {_LONGEST_S:g} s") from None
    finally:
        training.end()
    if code != 0:
        raise Broken(f"it could not go on: exit code {code}, {training.errors().strip()}")


def check_same(one: Path, other: Path, reported: Sequence[Mapping[str, float]] = ()) -> None:
    """See that two trainings came to the same, to the bit.

    Args:
        one: Folder of a `SmallTraining`.
        other: Likewise.
        reported: What the first had reported of its epochs before it was started again.

    Raises:
        Broken: if they did not.
    """
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "trained" / "model.safetensors") for folder in (one, other))
    for name in {**theirs, **ours}:
        if not (name in ours and name in theirs and torch.equal(ours[name], theirs[name])):
            raise Broken(f"unlike in an undisturbed training: {name}")
    results, expected = (_results(folder) for folder in (one, other))
    if different := [name for name in expected if results.get(name) != expected[name]]:
        raise Broken(f"unlike in an undisturbed training: {', '.join(different)}")
    told, wanted = [*reported, *epochs_of(one)], epochs_of(other)
    if told != wanted:
        other_lines = [
            place for place, pair in enumerate(zip(told, wanted, strict=False)) if ne(*pair)
        ]
        numbers = f"{len(told)} of {len(wanted)}, of them otherwise {other_lines}"
        raise Broken(f"unlike in an undisturbed training: the epochs reported, {numbers}")


def _results(folder: Path) -> Mapping[str, Any]:
    results: dict[str, Any] = json.loads((folder / "trained" / "results.json").read_text())
    return {name: results[name] for name in _RESULTS}
