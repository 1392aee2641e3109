"""Ranks that are started one by one, as a launcher would, without the time for their imports."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
from collections.abc import Iterator, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.small_training import main

__all__ = ["LaunchedRank", "launched", "unused_port"]

_CONTEXT = multiprocessing.get_context("forkserver")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as the command does under a launcher


class LaunchedRank:
    """A process that is one of the ranks.

    Attributes:
        folder: Its own, as if it were on a host of its own.
        process: It.
    """

    def __init__(self, folder: Path, process: ForkServerProcess) -> None:
        self.folder = folder
        self.process = process

    def ended(self, seconds: float) -> tuple[int | None, str]:
        """Return its exit code, None if it has not ended by then, and what it has said."""
        self.process.join(seconds)
        said = self.folder / "errors.txt"
        return self.process.exitcode, said.read_text() if said.exists() else ""


@contextlib.contextmanager
def launched(
    folder: Path, whats: Mapping[str, Mapping[str, Any]], **environment: str
) -> Iterator[dict[str, LaunchedRank]]:
    """Start ranks, and kill at the end what is left of them.

    Args:
        folder: For all of them.
        whats: By name, e.g. ``"1"`` or ``"1 again"``, what each is to train; it begins with the
            rank.
        environment: In place of what a launcher would say.
    """
    _CONTEXT.set_forkserver_preload(["sedona_nni.trials.train"])
    port = str(unused_port())
    started = {}
    try:
        for name, what in whats.items():
            own = folder / name.replace(" ", "-")
            own.mkdir(parents=True)
            (own / "small.json").write_text(json.dumps(what))
            given = {"RANK": name.split()[0], "WORLD_SIZE": "2", "MASTER_PORT": port}
            given |= {"MASTER_ADDR": "127.0.0.1", **environment, **what.get("environment", {})}
            process = _CONTEXT.Process(target=_be, args=(own, given), daemon=True)
            process.start()
            started[name] = LaunchedRank(own, process)
        yield started
    finally:
        for each in started.values():
            each.process.kill()
            each.process.join()


def _be(folder: Path, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    for stream, name in ((1, "epochs.jsonl"), (2, "errors.txt")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    code = main(folder)
    raise SystemExit(code)


def unused_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
