"""What follows from ``benchmarks/data`` and records: built when it is wanted, and not stored.

Each derivation is a view of `benchmarks.tabular`, `benchmarks.teachers` or `benchmarks.study` and
has a command that prints it. `derive` makes files of it: ``<name>.json`` with all values,
``<name>.md`` to be read. Where a document has the marks ``<!-- derived: <name> -->`` and
``<!-- end of derived -->``, `filled` puts the first table of a derivation between them, and a test
compares.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from benchmarks.study import views as study
from benchmarks.tabular import views as tabular
from benchmarks.tabular.overview import contests, leads, overview, sampled
from benchmarks.tabular.table import Table
from benchmarks.teachers import views as teachers
from benchmarks.teachers.best import best
from benchmarks.teachers.published import published
from benchmarks.view import View
from sedona_nni.errors import InputError
from sedona_nni.files import write_atomically, write_json

__all__ = ["DERIVATIONS", "DIRECTORY", "DOCUMENTS", "Derivation", "derive", "filled"]

DATA = Path("benchmarks/data")
DIRECTORY = ROOT / "benchmarks" / "derived"

_BOUND = "1.3/K"


@dataclass(frozen=True)
class Derivation:
    """A view of files under ``benchmarks``.

    Attributes:
        view: The function of `benchmarks.tabular.views` or of its like.
        of: What it is made of, from the root of the checkout: a file or a folder, or the pattern
            of the files of a list.
        options: Whatever else it is told; paths likewise, of which there may be several.
    """

    view: Callable[..., View]
    of: Path | str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What prints it, from the root of a checkout."""
        package = self.view.__module__.rpartition(".")[0]
        words = ["python", "-m", package, self.view.__name__]
        for name, value in self.options.items():
            for each in _listed(value):
                words += [f"--{name.replace('_', '-')}", str(each)]
        named = f"--data {self.of}" if package == "benchmarks.study" else f"{self.of}"
        return f"{shlex.join(words)} {named}"

    @property
    def _listed(self) -> list[Path]:
        """What the pattern stands for, or the file or folder alone."""
        if isinstance(self.of, Path):
            return [ROOT / self.of]
        return sorted(ROOT.glob(self.of))

    @property
    def files(self) -> list[Path]:
        """What it is made of, from the root of the checkout."""
        told = [each for value in self.options.values() for each in _listed(value)]
        named = [*self._listed, *(ROOT / each for each in told if isinstance(each, Path))]
        inside = [sorted(path.rglob("*.json")) if path.is_dir() else [path] for path in named]
        return [path.relative_to(ROOT) for each in inside for path in each]

    def build(self) -> View:
        """Return the view."""
        told = {
            name: [*map(_from_root, value)] if isinstance(value, tuple) else _from_root(value)
            for name, value in self.options.items()
        }
        listed = self._listed
        return self.view(listed[0] if isinstance(self.of, Path) else listed, **told)


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _from_root(value: Any) -> Any:
    return ROOT / value if isinstance(value, Path) else value


def _derivations() -> Iterator[tuple[str, Derivation]]:
    tables, searched = f"{DATA}/tables/*.json", {"found": DATA / "found"}
    yield "tables", Derivation(tabular.cover, tables)
    yield "tables-overview", Derivation(overview, tables, searched)
    yield "tables-contests", Derivation(contests, tables, searched)
    yield "tables-leads", Derivation(leads, tables, searched)
    yield "tables-contests-10", Derivation(contests, tables, {**searched, "budget": 10})
    for path in sorted((ROOT / DATA / "tables").glob("*.json")):
        name, table = path.stem, {"table": DATA / "tables" / path.name}
        long = DATA / "tables" / f"{name}_long.json"
        if (ROOT / long).exists():
            yield f"{name}-longer", Derivation(tabular.longer, long, table)
        found, losses = DATA / "found" / name, DATA / "losses" / name
        if (ROOT / found).exists():
            yield f"{name}-judge", Derivation(tabular.judge, found, table)
            for k in sampled(Table.load(path)):
                if k > 2:
                    of_k = {**table, "num_blocks": k}
                    yield f"{name}-judge-k{k}", Derivation(tabular.judge, found, of_k)
            bound = {**table, "max_block_share": _BOUND}
            yield f"{name}-judge-bound", Derivation(tabular.judge, found, bound)
            yield f"{name}-contest", Derivation(tabular.contest, found, table)
            if sum(each.is_dir() for each in (ROOT / found).glob("*")) > 1:
                # So that SEDONA's cheapest variants can take part, too
                longer = {**table, "budget": 10, "reference": "probe"}
                yield f"{name}-contest-10", Derivation(tabular.contest, found, longer)
            yield f"{name}-contest-bound", Derivation(tabular.contest, found, bound)
        for folder in sorted((ROOT / losses).glob("*")):
            of = f"{losses}/{folder.name}/*.json"
            yield f"{name}-ablate-{folder.name}", Derivation(tabular.ablate, of, table)

    ledgers = sorted((ROOT / DATA / "teachers").glob("*.jsonl"))
    networks = [path.stem.removeprefix("compare_") for path in ledgers]
    times = tuple(Path(f"benchmarks/records/teacher_times_{name}.json") for name in networks)
    for path, record in zip(ledgers, times, strict=True):
        kept = DATA / "teachers" / path.name
        told = {"made": kept.with_suffix(".json"), "times": record}
        yield f"teachers-{path.stem}", Derivation(teachers.show, kept, told)
    of = f"{DATA}/teachers/*.jsonl"
    yield "teachers-published", Derivation(published, of)
    yield "teachers-best", Derivation(best, of, {"times": times})

    yield "study", Derivation(study.show, DATA / "study.json")
    two = Derivation(study.show, DATA / "study.json", {"first": "probe=2"})
    yield "study-two-leaders", two


DERIVATIONS: dict[str, Derivation] = dict(_derivations())
"""All of them, by name."""


def derive(name: str, directory: Path = DIRECTORY) -> Path:
    """Build a derivation and write it; what it is made of is named in it with its SHA-256.

    Args:
        name: One of `DERIVATIONS`.
        directory: Where to write.

    Returns:
        The file for readers.
    """
    derivation = DERIVATIONS[name]
    view = derivation.build()
    made_of = {
        str(path): hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        for path in derivation.files
    }
    head = {"command": derivation.command, "made_of": made_of}
    write_json(directory / f"{name}.json", {**head, **view.results})
    parts = [f"# {name}", f"    {derivation.command}", *(each.markdown() for each in view.tables)]
    readable = directory / f"{name}.md"
    text = "\n\n".join(parts) + "\n"
    write_atomically(readable, lambda path: path.write_text(text, encoding="utf-8"))
    return readable


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "docs" / "benchmark.md",
    ROOT / "docs" / "guides" / "teachers.md",
]
"""Those that show tables of derivations."""

_MARKED = re.compile(
    r"<!-- derived: (\S+?)(?: (\d+))? -->\n.*?<!-- end of derived -->\n", re.DOTALL
)


def filled(text: str) -> str:
    """Return the text of a document with what stands between marks built anew.

    ``<!-- derived: <name> 2 -->`` stands for the second table of a derivation.

    Raises:
        InputError: if a mark names no derivation.
    """
    built: dict[str, View] = {}

    def table(mark: re.Match[str]) -> str:
        name, number = mark[1], int(mark[2] or 1)
        if name not in DERIVATIONS:
            raise InputError.rule("derived", f"must be of {', '.join(DERIVATIONS)}", name)
        derivation = DERIVATIONS[name]
        view = built[name] if name in built else built.setdefault(name, derivation.build())
        (head, *_), shown = mark[0].split("\n"), view.tables[number - 1].markdown()
        command = f"    {derivation.command}"
        return f"{head}\n\n{command}\n\n{shown}\n\n<!-- end of derived -->\n"

    return _MARKED.sub(table, text)
