"""A user's home, in which commands are run, and all of whose processes can be found."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["Command", "Home"]

_ROOT = Path(__file__).parents[2]
_LOOK_S = 0.1


class Command:
    """One that was started.

    Attributes:
        process: It, in a session of its own.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.process = process
        self._errors = errors

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        """Return what it has written on standard error so far."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """Return the last of it."""
        return (self.said().strip().splitlines() or ["nothing"])[-1]

    def interrupt(self) -> None:
        """Do what Ctrl-C does, to it alone."""
        self.process.send_signal(signal.SIGINT)


class Home:
    """A home.

    Args:
        folder: Where; everything that is run has it as its home and current folder.
        outside: A folder for what is written about commands, as the home may be full.
        environment: Of the commands, beside this process's.
        before: What is put before every command, e.g. what runs it with fewer rights.
    """

    def __init__(
        self,
        folder: Path,
        outside: Path,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._outside = outside
        self._before = tuple(before)
        self._commands: list[Command] = []
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
            "NNI_CONFIG_DIR": str(folder / "nni-config"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **(environment or {}),
            "HOME": str(folder),
        }
        folder.mkdir(parents=True, exist_ok=True)
        outside.mkdir(parents=True, exist_ok=True)

    def start(self, words: Sequence[str]) -> Command:
        """Start ``sedona-nni`` with these words."""
        stem = self._outside / f"command-{len(self._commands)}"
        errors = stem.with_suffix(".err")
        with stem.with_suffix(".out").open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [*self._before, sys.executable, "-m", "sedona_nni.command_line", *words],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._commands.append(Command(process, errors))
        return self._commands[-1]

    def processes(self) -> list[psutil.Process]:
        """Return every process in this home that is left, whoever its parent is by now."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_own = each.environ().get("HOME") == str(self.folder)
                if is_own and each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def left_after(self, seconds: float) -> list[psutil.Process]:
        """Return the processes that are still there after a while; at once if there are none."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return left

    def end(self) -> None:
        """Kill what is left."""
        for each in self.processes():
            with contextlib.suppress(psutil.Error):
                each.kill()
        for command in self._commands:
            command.process.kill()
            command.process.wait()

    def remove(self) -> None:
        """Remove it, and what was written about its commands."""
        for folder in (self.folder, self._outside):
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def unused_port() -> int:
        """Return a port that nobody uses, as little as the next one, which NNI may take as well.

        Not one of those that the system gives to whoever connects to something.
        """
        while True:
            port = random.SystemRandom().randrange(10_000, 30_000)
            with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
                one.bind(("", port))
                other.bind(("", port + 1))
                return port
