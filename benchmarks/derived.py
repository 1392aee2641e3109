"""What follows from ``benchmarks/data`` alone: built when it is wanted, and not stored.

Each derivation is a view of `benchmarks.tabular` or `benchmarks.study` and has a command that
prints it. `derive` makes files of it: ``<name>.json`` with all values, ``<name>.md`` to be read.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from benchmarks.study import views as study
from benchmarks.tabular import views as tabular
from benchmarks.view import View
from sedona_nni.files import write_atomically, write_json

__all__ = ["DERIVATIONS", "DIRECTORY", "Derivation", "derive"]

DATA = Path("benchmarks/data")
DIRECTORY = ROOT / "benchmarks" / "derived"

_BOUND = "1.3/K"


@dataclass(frozen=True)
class Derivation:
    """A view of files under ``benchmarks/data``.

    Attributes:
        view: The function of `benchmarks.tabular.views` or `benchmarks.study.views`.
        source: The table or the study's file, from the root of the checkout.
        results: Pattern of the searches' files, if it judges any.
        options: Whatever else it is told.
    """

    view: Callable[..., View]
    source: Path
    results: str | None = None
    options: Mapping[str, Any] | None = None

    @property
    def command(self) -> str:
        """What prints it, from the root of a checkout."""
        package = self.view.__module__.removesuffix(".views")
        words = ["python", "-m", package, self.view.__name__]
        options = {("data" if package == "benchmarks.study" else "table"): self.source}
        for name, value in {**options, **(self.options or {})}.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words) + (f" {self.results}" if self.results else "")

    @property
    def files(self) -> list[Path]:
        """What it is made of, from the root of the checkout."""
        results = sorted(ROOT.glob(self.results)) if self.results else []
        return [self.source, *(path.relative_to(ROOT) for path in results)]

    def build(self) -> View:
        """Return the view."""
        view = partial(self.view, **(self.options or {}))
        source, *results = (ROOT / path for path in self.files)
        return view(results, source) if self.results else view(source)


def _derivations() -> Iterator[tuple[str, Derivation]]:
    for net, prefix, samples in (("vgg11", "tabular", 3), ("resnet18", "tabular-resnet18", 4)):
        table = DATA / f"{net}-fashion-mnist.json"
        of_net = partial(Derivation, source=table)
        yield f"{prefix}-k2", of_net(tabular.show)
        yield f"{prefix}-k{samples}", of_net(tabular.show, options={"num_blocks": samples})
        yield f"{prefix}-score", of_net(tabular.score)
        yield f"{prefix}-score-bound", of_net(tabular.score, options={"max_block_share": _BOUND})
        yield f"{prefix}-signs", of_net(tabular.signs)
        judged = partial(of_net, tabular.judge, results=f"{DATA}/probings/{net}-*.json")
        yield f"{prefix}-probing", judged()
        yield f"{prefix}-probing-bound", judged(options={"max_block_share": _BOUND})
        yield f"{prefix}-probing-k{samples}", judged(options={"num_blocks": samples})
        whole = f"{DATA}/probings/whole-batches/{net}-*.json"
        yield f"{prefix}-probing-whole-batches", judged(results=whole)

    for net, prefix in (("vgg11", "tabular-held-out"), ("resnet18", "tabular-held-out-resnet18")):
        of_net = partial(Derivation, source=DATA / f"{net}-held-out.json")
        yield f"{prefix}-k2", of_net(tabular.show)
        yield f"{prefix}-score", of_net(tabular.score)
        within = {"queries": 4, "max_block_share": _BOUND}
        yield f"{prefix}-score-bound", of_net(tabular.score, options=within)
        judged = partial(of_net, tabular.judge, results=f"{DATA}/probings/held-out/{net}-*.json")
        yield f"{prefix}-probing", judged()
        yield f"{prefix}-probing-bound", judged(options={"max_block_share": _BOUND})

    table = DATA / "vgg11-fashion-mnist.json"
    searches = partial(Derivation, tabular.judge, table, f"{DATA}/searches/*.json")
    yield "tabular-sedona", searches()
    yield "tabular-sedona-bound", searches(options={"max_block_share": _BOUND})

    for path in sorted((ROOT / DATA / "tables").glob("*.json")):
        yield (
            f"table-{path.stem.replace('_', '-')}",
            Derivation(tabular.cover, DATA / "tables" / path.name),
        )

    yield "study", Derivation(study.show, DATA / "study.json")
    leaders = {"first": "probe=2"}
    yield "study-two-leaders", Derivation(study.show, DATA / "study.json", options=leaders)


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
