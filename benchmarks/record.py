"""Records of measurements: what was run, where, and every value that came of it.

A record is two files in ``benchmarks/records``: ``<name>.json`` with everything, for machines, and
``<name>.md`` with the same header and tables, for readers.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically, write_json

__all__ = [
    "RECORDS",
    "Header",
    "Machine",
    "Table",
    "check_name",
    "header",
    "memory_bytes",
    "publish",
]

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
_PACKAGES = ("torch", "torchvision", "numpy", "sedona-nni")


class Machine(BaseModel):
    """Where something was measured.

    Attributes:
        cpu: Model of the processor.
        cores: Logical processors that this process may use.
        memory_gib: Main memory, GiB.
        gpu: Model of the GPU, if one was used.
        load: Processes that wanted to run in the minute before; well below 1 is an idle machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None
    load: float


class Header(BaseModel):
    """What belongs to every measurement beside its values.

    Attributes:
        command: What repeats it, from the root of a checkout.
        date: When it began, UTC, ISO 8601.
        commit: Of the checkout; None without git.
        dirty: Whether the checkout, records aside, differs from that commit; None without git.
        versions: By name, ``python`` included.
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


@dataclass(frozen=True)
class Table:
    """A table for readers; every cell is text already.

    Attributes:
        title: What it shows, with units that no heading has.
        headings: One per column.
        rows: One cell per column.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, the first column to the left and the others right."""
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)], *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = RichTable(box=SIMPLE_HEAD, title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left", no_wrap=not index)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def header(*, n: int, packages: Sequence[str] = _PACKAGES, gpu: str | None = None) -> Header:
    """Describe the measurement that the present command is about to make.

    Args:
        n: How many times each value is measured.
        packages: Installed distributions whose versions matter.
        gpu: Model of the GPU, if one is used.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/records")
    return Header(
        command=f"python -m benchmarks {shlex.join(sys.argv[1:])}",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
        dirty=None if changes is None else changes != "",
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in packages},
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


def check_name(name: str) -> None:
    """Check that a record can have this name.

    Raises:
        InputError: if it is more than lower-case letters, digits, hyphens and underscores.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise InputError.rule("--record", "must be lower-case letters, digits, - and _", name)


def publish(
    head: Header,
    results: dict[str, Any],
    tables: Sequence[Table],
    *,
    as_json: bool,
    record: str | None = None,
    directory: Path = RECORDS,
) -> None:
    """Print a measurement and, if it has a name, keep it.

    Args:
        head: From `header`, taken before anything was measured.
        results: All values, fit for JSON; they stand beside ``header`` in the document.
        tables: What a reader should see of them.
        as_json: Whether to print JSON instead of the tables.
        record: Name of the record to write, if any.
        directory: Where records are kept.

    Raises:
        InputError: see `check_name`; check it before measuring, too.
    """
    document = {"header": head.model_dump(mode="json"), **results}
    if record is not None:
        check_name(record)
        write_json(directory / f"{record}.json", document)
        text = _markdown(record, head, tables)
        write_atomically(
            directory / f"{record}.md", lambda path: path.write_text(text, encoding="utf-8")
        )
    if as_json:
        print(json.dumps(document))
    else:
        for table in tables:
            table.show(Console())


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
