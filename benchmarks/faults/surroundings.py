"""What is done to all that is around: the disk, the folder, the clock, the same command again."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.faults.broken import Broken
from benchmarks.faults.fault import Fault
from benchmarks.faults.home import Home
from sedona_nni.errors import InputError

__all__ = ["AtTheSameTime", "ClockSetBack", "DiskFull", "ReadOnly"]

_DISK_MIB = 256
_MOST_LEFT = 2**18  # bytes
_AS_A_USER = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
_CLOCK = Path(__file__).with_name("clock.c")
_MOST_BACK_S = 7200
_SECOND_S = 60.0


class DiskFull(Fault):
    """The disk, a small one of its own, has no room any more."""

    name = "disk full"
    is_around = True

    @contextlib.contextmanager
    def home(self, folder: Path) -> Iterator[Home]:
        """See `Fault.home`."""
        place = folder / "disk"
        place.mkdir(parents=True)
        size = f"size={_DISK_MIB}m"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place])
        if done.returncode != 0:
            raise InputError("a disk that can be full is mounted, by root only")
        home = Home(place / "home", folder / "outside")
        self._filler = place / "filler"
        try:
            yield home
        finally:
            home.end()
            home.remove()
            subprocess.run(["umount", "--lazy", place], check=True)  # the killed may not be gone

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        with self._filler.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(2**16))
        size = self._filler.stat().st_size
        with self._filler.open("r+b") as filler:
            filler.truncate(max(0, size - round(self.draw * _MOST_LEFT)))

    def undo(self) -> None:
        """See `Fault.undo`."""
        self._filler.unlink(missing_ok=True)


class ReadOnly(Fault):
    """Nobody may write into the home's folders any more; files that are open stay so."""

    name = "read-only folders"
    is_around = True
    _folder: Path | None = None

    @contextlib.contextmanager
    def home(self, folder: Path) -> Iterator[Home]:
        """See `Fault.home`; root may write everywhere, and so has to do without that here."""
        home = Home(folder / "home", folder / "outside", before=_AS_A_USER)
        try:
            yield home
        finally:
            self.undo()
            home.end()
            home.remove()

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        self._folder = home.folder
        subprocess.run(["chmod", "-R", "a-w", home.folder])  # a file may have gone meanwhile

    def undo(self) -> None:
        """See `Fault.undo`."""
        if self._folder is not None:
            subprocess.run(["chmod", "-R", "u+w", self._folder], check=True)


class ClockSetBack(Fault):
    """The time of day jumps back, by up to two hours; the clock that runs evenly does so still."""

    name = "clock set back"
    is_around = True

    @contextlib.contextmanager
    def home(self, folder: Path) -> Iterator[Home]:
        """See `Fault.home`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._clock, library = folder / "clock", folder / "clock.so"
        self._set_back(0)
        words = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(_CLOCK), "-ldl"]
        if shutil.which("cc") is None or subprocess.run(words).returncode != 0:
            raise InputError("a clock that is set back needs a C compiler, cc")
        environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self._clock)}
        home = Home(folder / "home", folder / "outside", environment)
        try:
            yield home
        finally:
            home.end()
            home.remove()

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        self._set_back(round(self.draw * _MOST_BACK_S))

    def _set_back(self, seconds: int) -> None:
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))


class AtTheSameTime(Fault):
    """Somebody runs the same once more in the same place."""

    name = "the same again meanwhile"
    is_around = True

    def do(self, home: Home, process: psutil.Process, again: Callable[[], list[str]]) -> None:
        """See `Fault.do`."""
        second = home.start(again())
        with contextlib.suppress(subprocess.TimeoutExpired):
            second.process.wait(_SECOND_S)
        if second.code is None:
            raise Broken("the second one is there beside the first")
        if second.code not in (0, 2):  # 0 if the first had come to its end
            raise Broken(f"the second ended with {second.code}: {second.said()!r}")
