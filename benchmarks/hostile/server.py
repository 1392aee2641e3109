"""Real commands in processes of their own, without three seconds of imports for each.

Run as a program it imports what the commands import, and then forks for each line of JSON that it
reads. The child is given its folder, environment, limits and words, and falls through to the entry
of the command: exit code, traceback, threads and what is done at exit are real. What is read of the
environment by imports alone has been read by then; for that a command is started anew.

Whatever a command leaves behind becomes a child of this program, as it asks for that.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil
from typing_extensions import Self

__all__ = ["Ended", "Server"]

_ROOT = Path(__file__).parents[2]
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER
_OWN_MOUNTS = 0x20000  # CLONE_NEWNS
_READ_ONLY, _REMOUNT, _BIND, _PRIVATE = 0x1, 0x20, 0x1000, 0x44000  # flags of mount(2)
_SHARED_MEMORY = "/dev/shm"
_MEMORY, _FILE = 6 * 2**30, 2**30  # bytes that a command may allocate, and write to one file
_LEFT_S = 30.0  # within which what a command has started has to end after it
_IMPORTED = (
    *("torch", "torchvision.transforms.v2", "sklearn.datasets", "nni", "optuna", "jinja2"),
    *("sedona_nni.command_line", "sedona_nni.trials.__main__", "sedona_nni.trials.search"),
    *("sedona_nni.strategies.experiment", "sedona_nni.strategies.hyperparameters"),
    *("sedona_nni.strategies.processes", "sedona_nni.strategies.runner"),
    *("sedona_nni.strategies.report_source", "sedona_nni.strategies.known"),
    *("sedona_nni.reporting.build", "sedona_nni.reporting.page", "nni.experiment.config"),
    *("sedona_nni.strategies.sources", "PIL.Image", "safetensors.torch"),
)


@dataclass(frozen=True)
class Ended:
    """How a command has ended.

    Attributes:
        code: Its exit code, negative that of a signal; None if it was killed, having taken too
            long.
        out: What it wrote on standard output.
        err: On standard error.
        left: What it had started and was still there afterwards, by their command lines.
        seconds: How long it took.
    """

    code: int | None
    out: str
    err: str
    left: tuple[str, ...]
    seconds: float


class Server:
    """Runs commands one after another; to be used in a ``with``.

    Where this process may do so, as root may, they can write to nothing but their folder: hostile
    words are not for the machine's own files.

    Args:
        folder: The one that commands may write to.
        home: In it, the home folder of all that it runs.
        temporary: In it, where they have temporary files.
    """

    def __init__(self, folder: Path, home: Path, temporary: Path) -> None:
        self._folder = folder
        self._fixed = {
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "NNI_CONFIG_DIR": str(home / ".config" / "nni"),  # not in the environment's own folder
            "PYTHONPATH": str(_ROOT),
        }
        self._out, self._err = folder / "out.txt", folder / "err.txt"

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hostile.server", str(self._folder)],
            cwd=_ROOT,
            env={**_plain_environment(), **self._fixed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever has started it
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, and whatever it has started."""
        self._kill_all()
        self._process.kill()
        self._process.communicate()

    def run(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str | None] | None = None,
        limit_s: float = 60,
        anew: bool = False,
        until: Callable[[], bool] | None = None,
    ) -> Ended:
        """Run a command to its end.

        Args:
            words: What is typed, without the name of the program.
            folder: Where.
            environment: Variables beside the usual ones; None takes one away.
            limit_s: After so long it and all that it has started are killed.
            anew: Whether Python is to be started for it.
            until: Once this is true, it is interrupted as by Ctrl-C.
        """
        given = {**_plain_environment(), **self._fixed, **(environment or {})}
        job = {
            "words": list(words),
            "folder": str(folder),
            "environment": {name: text for name, text in given.items() if text is not None},
            "out": str(self._out),
            "err": str(self._err),
            "anew": anew,
        }
        began = time.monotonic()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        while until is not None and not until() and not _is_ready(self._process.stdout, 0.02):
            pass
        if until is not None:
            for each in psutil.Process(self._process.pid).children():
                each.send_signal(signal.SIGINT)
        in_time = _is_ready(self._process.stdout, limit_s)
        while not in_time and not _is_ready(self._process.stdout, 0.1):
            self._kill_all()
        code: int = json.loads(self._process.stdout.readline())
        seconds = time.monotonic() - began
        left = self._left(_LEFT_S)
        self._kill_all()
        out, err = (
            path.read_text(encoding="utf-8", errors="surrogateescape")
            for path in (self._out, self._err)
        )
        return Ended(code if in_time else None, out, err, left, seconds)

    def _children(self) -> list[psutil.Process]:
        found = []
        for each in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def _left(self, seconds: float) -> tuple[str, ...]:
        deadline = time.monotonic() + seconds
        while (left := self._children()) and time.monotonic() < deadline:
            time.sleep(0.02)
        words = []
        for each in left:
            with contextlib.suppress(psutil.Error):
                words.append(" ".join(each.cmdline()))
        return tuple(words)

    def _kill_all(self) -> None:
        for each in self._children():
            with contextlib.suppress(psutil.Error):
                each.kill()


def _plain_environment() -> dict[str, str]:
    """Return this process's, without what the commands would take for something else."""
    kept = ("PATH", "LANG", "LC_ALL", "USER", "TERM", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def _is_ready(pipe: IO[bytes], seconds: float) -> bool:
    return bool(select.select([pipe], [], [], seconds)[0])


def _serve() -> None:
    """Fork for each job; returns in the child, which is the command then."""
    ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)
    if os.geteuid() == 0:
        _write_only_to(sys.argv[1])
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or each child's first collection copies all of it
    for line in sys.stdin.buffer:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        print(code, flush=True)
    sys.exit()


def _write_only_to(folder: str) -> None:
    """Make everything else read-only for this process and all that it starts.

    Raises:
        PermissionError: if that is not allowed; then hostile words could damage the machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    place = folder.encode()
    if libc.unshare(_OWN_MOUNTS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise PermissionError("as root, it must be allowed to mount; run it as another user")
    libc.mount(place, place, None, _BIND, None)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1].encode().decode("unicode_escape")
        if point not in (folder, _SHARED_MEMORY):
            libc.mount(None, point.encode(), None, _REMOUNT | _BIND | _READ_ONLY, None)
    with contextlib.suppress(OSError):
        Path("/", Path(folder).name).touch()
        raise PermissionError("the machine's own files could not be protected")


def _become(job: Mapping[str, Any]) -> None:
    """Make this process one in which the command is typed."""
    os.setsid()
    os.chdir(job["folder"])
    for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    for kind, most in (
        (resource.RLIMIT_DATA, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    words = [os.fsencode(word) for word in job["words"]]
    if job["anew"]:
        command = [b"-m", b"sedona_nni.command_line", *words]
        os.execve(sys.executable, [os.fsencode(sys.executable), *command], job["environment"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["sedona-nni", *map(os.fsdecode, words)]


def _leave() -> None:
    """End before the modules are freed one by one, which takes half a second; all else is done."""
    if _code is not None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_code)


_code: int | None = None  # with which this process ends, once it is a command

if __name__ == "__main__":
    atexit.register(_leave)  # the first one, so it is the last to be called
    _serve()
    from sedona_nni.command_line import main

    _code = 1  # of an exception that nobody expects
    try:
        main()
    except SystemExit as error:
        _code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    _code = 0
