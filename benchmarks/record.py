"""Records of measurements: what was run, where, and every value that came of it.

A record is two files in ``benchmarks/records``: ``<name>.json`` with everything, for machines, and
``<name>.md`` with the same header and tables, for readers. It is made of a commit, on a machine
that has nothing else to do; or against that by request, and says so (`Header.doubts`). What follows
from ``benchmarks/data`` alone is no record, see `benchmarks.derived`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from benchmarks.view import Table
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically, write_json
from sedona_nni.kernels import kernels

__all__ = [
    "RECORDS",
    "Header",
    "Machine",
    "begin",
    "header",
    "memory_bytes",
    "other_work",
    "publish",
]

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
_IDLE_LOAD = 0.25  # per core: less than that is an editor and the like
_HEAVY = 0.2  # of a core
_PACKAGES = ("torch", "torchvision", "numpy", "sedona-nni")

Doubt = Literal["dirty", "busy"]
"""What values suffer from: of a checkout with changes, or of a machine that did something else."""


class Machine(BaseModel):
    """Where something was measured.

    Attributes:
        cpu: Model of the processor.
        cores: Logical processors that this process may use.
        memory_gib: Main memory, GiB.
        gpu: Model of the GPU, if one was used.
        load: Processes that wanted to run, mean over the minute before.
        busy_with: What else ran just before, see `other_work`; None if nobody looked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None
    load: float
    busy_with: tuple[str, ...] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something else was computed as well, as far as can be told."""
        return self.load > _IDLE_LOAD * self.cores or bool(self.busy_with)


class Header(BaseModel):
    """What belongs to every measurement beside its values.

    Attributes:
        command: What repeats it, from the root of a checkout.
        date: When it began, UTC, ISO 8601.
        commit: Of the checkout; None without git.
        dirty: Whether the checkout, records aside, differs from that commit; None without git.
        versions: By name, ``python`` included; of kernels in C, where they come from.
        machine: Where.
        n: How many times each value was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    date: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    machine: Machine
    n: int

    @property
    def doubts(self) -> dict[Doubt, str]:
        """What speaks against its values, in words; nothing if it was made as it should be."""
        found: dict[Doubt, str] = {}
        if self.dirty is None:
            found["dirty"] = "without git nobody knows what code was run"
        elif self.dirty:
            found["dirty"] = "the checkout had changes in no commit, which nobody can repeat"
        if self.machine.is_busy:
            others = "".join(f", {each}" for each in self.machine.busy_with or ())
            load = f"load {self.machine.load:g} on {self.machine.cores} cores"
            found["busy"] = f"the machine did other work ({load}{others}), so times are rough"
        return found


def begin(
    record: str | None,
    despite: str | None,
    *,
    n: int,
    packages: Sequence[str] = _PACKAGES,
    gpu: str | None = None,
) -> Header:
    """Describe a measurement before it begins, and check that a record may be made of it.

    Args:
        record: Name of the record to make, if any.
        despite: Which doubts, by commas, may be there nevertheless: ``dirty``, ``busy``.
        n: See `header`.
        packages: Likewise.
        gpu: Likewise.

    Raises:
        InputError: if the record's name has more than lower-case letters, digits, hyphens and
            underscores, ``despite`` has something else, or a record would be made in doubt.
    """
    accepted = set() if despite is None else set(despite.split(","))
    if accepted - {*get_args(Doubt)}:
        raise InputError.rule("--despite", "must be dirty, busy or both by a comma", despite)
    if record is None:
        return header(n=n, packages=packages, gpu=gpu)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", record):
        raise InputError.rule("--record", "must be lower-case letters, digits, - and _", record)
    head = header(n=n, packages=packages, gpu=gpu)
    machine = head.machine.model_copy(update={"busy_with": other_work()})
    head = head.model_copy(update={"machine": machine})
    refused = {name: why for name, why in head.doubts.items() if name not in accepted}
    if refused:
        raise InputError(
            f"--record: {'; '.join(refused.values())}; to record it nevertheless, with a note: "
            f"--despite {','.join(head.doubts)}"
        )
    return head


def header(
    *,
    n: int,
    packages: Sequence[str] = _PACKAGES,
    gpu: str | None = None,
    module: str = "benchmarks",
) -> Header:
    """Describe what the present command is about to do.

    Args:
        n: How many times each value is measured.
        packages: Installed distributions whose versions matter.
        gpu: Model of the GPU, if one is used.
        module: Whose command it is, as ``python -m`` calls it.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/records")
    return Header(
        command=f"python -m {module} {shlex.join(sys.argv[1:])}",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
        dirty=None if changes is None else changes != "",
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in packages}
        | {"kernels": kernels().origin},
        machine=Machine(
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(memory_bytes("MemTotal") / 2**30, 1),
            gpu=gpu,
            load=round(os.getloadavg()[0], 2),
        ),
        n=n,
    )


def memory_bytes(field: str) -> int:
    """Return what the system says about its memory: ``MemTotal``, or ``MemAvailable``."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
    assert match is not None
    return 1024 * int(match[1])


def other_work(seconds: float = 1.0) -> tuple[str, ...]:
    """Watch all other processes for a moment.

    Returns:
        Of each that used more than a fifth of a core its name and how much, e.g. ``"cc1 97 %"``.
    """
    before, started = _processor_times(), time.perf_counter()
    time.sleep(seconds)
    after, passed = _processor_times(), time.perf_counter() - started
    used = [
        (name, (total - before[pid][1]) / passed)
        for pid, (name, total) in after.items()
        if pid in before and pid != os.getpid()
    ]
    return tuple(f"{name} {share:.0%}" for name, share in used if share > _HEAVY)


def _processor_times() -> dict[int, tuple[str, float]]:
    """Return of each process its name and the processor time that it has used, seconds."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except OSError:  # it has ended
            continue
        name, _, fields = rest.rpartition(") ")
        ticks = sum(map(int, fields.split()[11:13]))  # in user and in system mode
        found[int(pid)] = (name, ticks / os.sysconf("SC_CLK_TCK"))
    return found


def publish(
    head: Header,
    results: dict[str, Any],
    tables: Sequence[Table],
    *,
    as_json: bool,
    record: str | None = None,
    directory: Path | None = None,
) -> None:
    """Print a measurement and, if it has a name, keep it.

    Args:
        head: From `begin`, taken before anything was measured.
        results: All values, fit for JSON; they stand beside ``header`` in the document.
        tables: What a reader should see of them.
        as_json: Whether to print JSON instead of the tables.
        record: Name of the record to write, if any.
        directory: Where records are kept, by default `RECORDS`.
    """
    document = {"header": head.model_dump(mode="json"), **results}
    if record is not None:
        directory = directory or RECORDS
        write_json(directory / f"{record}.json", document)
        text = _markdown(record, head, tables)
        write_atomically(
            directory / f"{record}.md", lambda path: path.write_text(text, encoding="utf-8")
        )
    if as_json:
        print(json.dumps(document))
    else:
        for table in tables:
            table.show()


def _markdown(name: str, head: Header, tables: Sequence[Table]) -> str:
    machine = head.machine
    where = f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB"
    where += f", {machine.gpu}" if machine.gpu else ""
    changed = " with uncommitted changes" if head.dirty else ""
    versions = ", ".join(f"{package} {number}" for package, number in head.versions.items())
    facts = [
        f"- Machine: {where}; load before: {machine.load:g}",
        f"- Commit: {head.commit or 'unknown'}{changed}",
        f"- Versions: {versions}",
        f"- Date: {head.date}; n = {head.n}; every value is in `{name}.json`",
    ]
    if head.doubts:
        facts.append(f"- **Doubts**: {'; '.join(head.doubts.values())}")
    parts = [f"# {name}", f"    {head.command}", "\n".join(facts)]
    return "\n\n".join([*parts, *(table.markdown() for table in tables)]) + "\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # of this library: run from a checkout that is not installed
        return "not installed"


def _git(*arguments: str) -> str | None:
    """Return what git says about the checkout; None without git or outside of a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or "unknown"
