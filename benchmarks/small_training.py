"""A small training in processes of its own, for others to interfere with.

Run as a program it trains what a file describes, tells of each epoch in a line of JSON, and ends as
``sedona-nni train`` does; but it starts in a third of the time, as it imports nothing of NNI. Under
a launcher's environment it is one of the ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from sedona_nni.errors import InputError, SedonaError

__all__ = ["SmallTraining", "epochs_of", "main", "start"]

_ROOT = Path(__file__).parents[1]
_MARK = "SEDONA_NNI_SMALL_TRAINING"
_STARTER = "sedona_nni.training.parallel"
_LOOK_S = 0.02


def main(folder: Path) -> int:
    """Train what a folder's ``small.json`` describes; return the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as the command does under a launcher
    import torch

    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.plugins import load_plugins
    from sedona_nni.task import Task
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.trials.train import run_training

    torch.set_num_threads(1)
    what = json.loads((folder / "small.json").read_text(encoding="utf-8"))
    load_plugins(what.get("plugins", []), folder)
    settings = TrainSettings.model_validate(what["settings"])
    decoupling = Decoupling.model_validate(what["decoupling"])

    def tell(numbers: Mapping[str, float]) -> None:
        print(json.dumps(numbers), flush=True)

    try:
        run_training(
            Task.model_validate(what["task"]),
            decoupling,
            settings,
            report=tell,
            directory=folder / "trained",
        )
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("sedona-nni: interrupted", file=sys.stderr)
        return 130
    return 0


class SmallTraining:
    """One that was started, with all its processes.

    Attributes:
        folder: Holds what is trained (``small.json``), what comes of it (``trained``), and what the
            process says of its epochs and on standard error.
        process: Who was started: the caller of the ranks' starter, or a launcher, or a rank.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    def all(self) -> list[psutil.Process]:
        """Return every process of it that is left, whoever its parent is by now."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_own = each.environ().get(_MARK) == str(self.folder)
                if is_own and each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def starter(self) -> psutil.Process | None:
        """Return who starts the ranks, if there is one yet."""
        for each in self.all():
            with contextlib.suppress(psutil.Error):
                if each.ppid() == self.process.pid and _STARTER in each.cmdline():
                    return each
        return None

    def ranks(self) -> list[psutil.Process]:
        """Return those of the ranks that are there, in their order."""
        starter = self.starter()
        if starter is None:
            return []
        with contextlib.suppress(psutil.Error):
            words = starter.cmdline()
            # They are forks of it; what is imported may start programs of its own
            ranks = [each for each in starter.children() if each.cmdline() == words]
            return sorted(ranks, key=lambda each: (each.create_time(), each.pid))
        return []

    def rank(self, number: int) -> psutil.Process | None:
        """Return a rank, if it is there yet."""
        ranks = self.ranks()
        return ranks[number] if number < len(ranks) else None

    def epochs(self) -> list[dict[str, float]]:
        """Return what was reported so far, of all runs in this folder."""
        return epochs_of(self.folder)

    def wait_for_epoch(self, epoch: int, seconds: float = 120) -> None:
        """Wait until an epoch was reported in this run.

        Raises:
            SedonaError: if the training ends before, or it takes too long.
        """
        deadline = time.monotonic() + seconds
        while not any(numbers["epoch"] >= epoch for numbers in self.epochs()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SedonaError(f"no epoch {epoch}: {self.errors()}")
            time.sleep(_LOOK_S)

    def errors(self) -> str:
        """Return what was said on standard error in this run."""
        return (self.folder / "errors.txt").read_text(encoding="utf-8")

    def wait(self, seconds: float) -> int:
        """Return the exit code.

        Raises:
            subprocess.TimeoutExpired: if it has not ended by then.
        """
        return self.process.wait(seconds)

    def left_after(self, seconds: float) -> list[psutil.Process]:
        """Return the processes that are still there after a while; at once if there are none."""
        deadline = time.monotonic() + seconds
        while (left := self.all()) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return left

    def end(self) -> None:
        """Kill what is left."""
        for each in self.all():
            with contextlib.suppress(psutil.Error):
                each.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def start(
    folder: Path,
    what: Mapping[str, Any],
    *,
    before: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> SmallTraining:
    """Start a training in a session of its own, or go on with one.

    Args:
        folder: Where; it need not exist.
        what: ``task``, ``decoupling`` and ``settings``, fit for JSON.
        before: What is put before ``-m benchmarks.small_training`` in place of Python, e.g. a
            launcher.
        environment: Of the process beside this one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.json").write_text(json.dumps(what), encoding="utf-8")
    words = [*(before or (sys.executable,)), "-m", "benchmarks.small_training", str(folder)]
    with (folder / "epochs.jsonl").open("wb") as out, (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            words,
            cwd=_ROOT,
            env={**os.environ, **(environment or {}), _MARK: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
    return SmallTraining(folder, process)


def epochs_of(folder: Path) -> list[dict[str, float]]:
    """Return what the last run in a folder has reported, of every epoch."""
    lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(Path(sys.argv[1])))
