"""Kernels in C, compiled where they are used, for what torch has none.

torch computes a batch norm on dual numbers, say, by some thirty operations, each of which reads and
writes whole maps. One loop does it in two passes. Where there is a C compiler, ``cc`` or what the
environment variable ``CC`` names, the first process that wants them compiles the kernels for its
processor in less than a second and keeps them in ``$XDG_CACHE_HOME/sedona-nni/kernels`` or
``~/.cache/sedona-nni/kernels``; others load them. Where there is none, or with
``SEDONA_NNI_KERNELS=off``, the same formulas are computed by torch's operations, and results differ
in their last digits.

Kernels are called without Python's lock. Where torch's threads are those of GNU's OpenMP, large
maps are divided among as many of them as torch would use; else a kernel uses one thread. They see
addresses, so whoever calls them, and that is `batch_norm` alone, looks after shapes, layouts and
types.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from sedona_nni.errors import InputError
from sedona_nni.files import user_cache, write_atomically

__all__ = ["Kernels", "kernels"]

_SOURCES = [Path(__file__).with_name(name) for name in ("kernels.c", "batch_norm.h")]
_FLAGS = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
_ONE_THREAD = ["-fopenmp-simd"]
_THREADS = ["-fopenmp"]
_THIS_PROCESSOR: tuple[list[str], ...] = (
    ["-march=native"],
    ["-mcpu=native"],
    [],
)  # by what a compiler understands
_SECONDS = 60


class Kernels(NamedTuple):
    """What there is, and why.

    Attributes:
        library: The compiled kernels; none if there are none.
        origin: In words: the compiler, or what was missing.
        threads: Whether they divide their work among threads.
    """

    library: ctypes.CDLL | None
    origin: str
    threads: bool = False


@functools.cache
def kernels() -> Kernels:
    """Return the kernels, compiled if they are not yet.

    Raises:
        InputError: if ``SEDONA_NNI_KERNELS`` is neither ``on`` nor ``off``.
    """
    wanted = os.environ.get("SEDONA_NNI_KERNELS", "on")
    if wanted not in ("on", "off"):
        raise InputError.rule("SEDONA_NNI_KERNELS", "must be on or off", wanted)
    if wanted == "off":
        return Kernels(None, "none: SEDONA_NNI_KERNELS=off")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        return Kernels(None, f"none: no C compiler ({' '.join(compiler) or 'CC is empty'})")
    why = ""
    for threads in (_THREADS, _ONE_THREAD) if _torch_uses_gnu_openmp() else (_ONE_THREAD,):
        for processor in _THIS_PROCESSOR:
            command = [*compiler, *_FLAGS, *threads, *processor]
            try:
                library = _load(command)
                origin = f"compiled by {' '.join(compiler)}"
                return Kernels(library, origin, bool(library.divides_among_threads()))
            except (OSError, subprocess.SubprocessError) as error:
                reason = getattr(error, "stderr", None) or str(error)
                why = why or reason.strip().splitlines()[0]
    return Kernels(None, f"none: {' '.join(compiler)} failed ({why})")


def _torch_uses_gnu_openmp() -> bool:
    """Return whether kernels can have torch's own threads.

    What is linked to GNU's OpenMP then finds the one that is loaded. Another one beside it would
    have threads of its own, which keep cores busy while they wait.
    """
    with contextlib.suppress(OSError, AttributeError):  # not loaded; not on Linux
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
        return True
    return False


def _load(command: list[str]) -> ctypes.CDLL:
    # What the compiler predefines itself: its version, and all that this processor can do
    predefined = _run([*command, "-dM", "-E", "-x", "c", os.devnull])
    if "-fopenmp" in command and "__clang__" in predefined:
        raise OSError("clang has an OpenMP of its own")
    digest = hashlib.sha256("\0".join([predefined, *command]).encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())

    def compile_to(path: Path) -> None:
        _run([*command, "-shared", "-o", str(path), str(_SOURCES[0]), "-lm"])

    kept = user_cache("kernels") / f"{digest.hexdigest()}.so"
    try:
        if not kept.exists():
            write_atomically(kept, compile_to)
        return ctypes.CDLL(str(kept))
    except InputError:  # a home that cannot be written to
        with tempfile.TemporaryDirectory() as folder:
            compile_to(Path(folder, kept.name))
            return ctypes.CDLL(str(Path(folder, kept.name)))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
    return done.stdout
