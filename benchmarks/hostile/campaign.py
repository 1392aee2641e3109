"""One mutation after another, each through a real command."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hostile.documents import (
    change_json,
    change_json_lines,
    change_lines,
    change_yaml,
)
from benchmarks.hostile.files import change_bytes, change_folder, change_place
from benchmarks.hostile.formats import (
    change_packed,
    change_picture,
    change_safetensors,
    change_sqlite,
    change_tensors,
)
from benchmarks.hostile.promise import broken, tree_of
from benchmarks.hostile.typed import change_environment, change_words
from benchmarks.hostile.world import READERS, Reader, Scene, World
from benchmarks.view import Table

__all__ = ["Mutation", "campaign", "hostile_tables"]

Change = Callable[[random.Random, Path], str]

_BY_SUFFIX: dict[str, tuple[str, Change]] = {
    ".json": ("JSON", change_json),
    ".experiment": ("JSON", change_json),
    ".jsonl": ("JSON", change_json_lines),
    ".yml": ("YAML", change_yaml),
    ".pt": ("tensors", change_tensors),
    ".safetensors": ("safetensors", change_safetensors),
    ".db": ("data base", change_sqlite),
    ".sqlite": ("data base", change_sqlite),
    ".gz": ("archive", change_packed),
    ".txt": ("lines", change_lines),
    **{
        f".{name}": ("picture", change_picture)
        for name in ("png", "jpg", "bmp", "gif", "tif", "webp")
    },
}
KINDS = (
    *("bytes", "place", "folder", *dict.fromkeys(kind for kind, _ in _BY_SUFFIX.values())),
    *("command line", "environment"),
)


@dataclass(frozen=True)
class Mutation:
    """A mutation, and what became of it.

    Attributes:
        number: From 1.
        reader: Name of the command that reads it, see `READERS`.
        kind: What sort of mutation it is.
        what: In words.
        code: The exit code; None if it was killed.
        line: The last that was said on standard error.
        seconds: How long it took.
        reason: Which promise was broken; None if none was.
    """

    number: int
    reader: str
    kind: str
    what: str
    code: int | None
    line: str
    seconds: float
    reason: str | None

    @property
    def command(self) -> str:
        """The command that it is of; what is typed may be another one."""
        return READERS[self.reader].words[0]

    @property
    def in_words(self) -> str:
        """What it was and what became of it, in a line."""
        what = f"{self.reader}, {self.what}".encode("unicode_escape").decode()
        return f"{what}: {f'code {self.code}' if self.reason is None else f'FAILED: {self.reason}'}"


@dataclass
class _Planned:
    kind: str
    what: str
    words: Sequence[str]
    environment: dict[str, str | None] = field(default_factory=dict)
    anew: bool = False


def campaign(seed: int, numbers: Sequence[int], show: Callable[[str], None]) -> list[Mutation]:
    """Do mutations by their numbers; what one does depends on the seed and its number alone.

    Args:
        seed: Of all that is random.
        numbers: Which.
        show: Is told how far it is.

    Returns:
        As many as were done; fewer if it was interrupted.
    """
    done: list[Mutation] = []
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        world = World(Path(name))
        with world.server:
            show("the world is being made")
            world.build(READERS[_reader_name(_source(seed, number))] for number in numbers)
            for place, number in enumerate(numbers, start=1):
                done.append(_one(world, seed, number))
                show(f"{place} of {len(numbers)}, number {number}: {done[-1].in_words}")
    return done


def _source(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}/{number}")


def _reader_name(source: random.Random) -> str:
    """Draw a command: of each mutation the first that is drawn."""
    names = [*READERS]
    return source.choices(names, [READERS[each].share for each in names])[0]


def _one(world: World, seed: int, number: int) -> Mutation:
    source = _source(seed, number)
    reader = READERS[name := _reader_name(source)]
    scene = world.open(reader)
    planned = _mutate(source, reader, scene)
    before = tree_of(scene)
    ended = world.server.run(
        planned.words,
        folder=scene.work,
        environment=planned.environment,
        limit_s=reader.limit_s,
        anew=planned.anew,
    )
    lines = ended.err.replace(str(scene.root), "").strip().splitlines()
    as_promised = reader if planned.kind not in ("command line",) else Reader((), ())
    return Mutation(
        number,
        name,
        planned.kind,
        planned.what,
        ended.code,
        lines[-1][:500].encode(errors="replace").decode() if lines else "",
        round(ended.seconds, 2),
        broken(as_promised, scene, before, ended),
    )


def _mutate(source: random.Random, reader: Reader, scene: Scene) -> _Planned:
    chance = source.random()
    if chance < 0.14:
        words, what = change_words(source, reader.words)
        return _Planned("command line", f"{what}: {' '.join(words)!r}"[:300], words)
    if chance < 0.24:
        variables, anew = change_environment(source)
        what = ", ".join(f"{name}={value!r}" for name, value in variables.items())
        return _Planned("environment", what[:300], reader.words, variables, anew)
    path = _chosen(source, reader, scene)
    kind, change = _chosen_change(source, path)
    short = path.relative_to(scene.root)
    return _Planned(kind, f"{short}: {change(source, path)}", reader.words)


def _chosen(source: random.Random, reader: Reader, scene: Scene) -> Path:
    places = [path for each in reader.reads for path in sorted(scene.root.glob(each))]
    path = source.choice(places)
    if path.is_dir() and source.random() < 0.7 and (inner := sorted(path.rglob("*"))):
        return source.choice(inner)
    return path


def _chosen_change(source: random.Random, path: Path) -> tuple[str, Change]:
    chance = source.random()
    if path.is_dir():
        return ("place", change_place) if chance < 0.5 else ("folder", change_folder)
    by_format = _BY_SUFFIX.get(path.suffix or path.name)
    if chance < 0.18:
        return "place", change_place
    if by_format is None or chance < 0.4:
        return "bytes", change_bytes
    return by_format


def hostile_tables(mutations: Sequence[Mutation]) -> list[Table]:
    """Return what `campaign` returned for readers: by kind, and by command."""
    commands = sorted({each.command for each in mutations})
    return [
        _table(
            "hostile and broken input", "what is changed", KINDS, lambda each: each.kind, mutations
        ),
        _table("by command", "command", commands, lambda each: each.command, mutations),
    ]


def _table(
    title: str,
    first: str,
    names: Sequence[str],
    name_of: Callable[[Mutation], str],
    mutations: Sequence[Mutation],
) -> Table:
    columns = [first, "mutations", "refused", "used", "exit code 1", "promise broken", "longest, s"]
    rows = []
    for name in names:
        those = [each for each in mutations if name_of(each) == name]
        codes = Counter(each.code for each in those)
        failed = sum(each.reason is not None for each in those)
        longest = max((each.seconds for each in those), default=0.0)
        counts = (len(those), codes[2], codes[0], codes[1], failed)
        rows.append([name, *map(str, counts), f"{longest:.1f}"])
    return Table(title, columns, rows)
