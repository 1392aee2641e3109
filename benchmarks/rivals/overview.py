"""Tables of all records of blocks and their rivals, for documents.

Records are those that ``python -m benchmarks parallel`` and ``memory`` have left under names that
begin with ``parallel_`` and ``memory_``; each is a row. ``python -m benchmarks overview`` prints
the tables, ``--write`` puts them into the guide, between its two marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RECORDS, ROOT, Header
from benchmarks.rivals.setting import RivalSetting
from benchmarks.view import Table, View
from sedona_nni.errors import InputError
from sedona_nni.files import read_json, write_atomically

__all__ = ["GUIDE", "overview", "put", "written"]

GUIDE = ROOT / "docs" / "guides" / "when-to-use-which.md"

_BEGIN = "<!-- tables: python -m benchmarks overview --write -->"
_END = "<!-- end of tables -->"
_NONE_YET = "*There is no record yet; the command fills this place once there are some.*"
_PIPELINES = ("gpipe", "1f1b", "zero_bubble", "zero_bubble_v")  # each with several numbers of parts


@dataclass(frozen=True)
class _Kind:
    """A kind of record, and its table.

    Attributes:
        name: What the names of its records begin with.
        title: Of the table.
        columns: Headings, and of which sides the best stands under each.
        value: What a side is judged by.
        best: Which of several values is the best one.
        form: Of a value.
    """

    name: str
    title: str
    columns: Mapping[str, Sequence[str]]
    value: Callable[[Mapping[str, Any]], float]
    best: Callable[[Iterable[float]], float]
    form: str


_BASE = "back-propagation"
_KINDS = (
    _Kind(
        "parallel",
        "images/s; in brackets their ratio to back-propagation on one core; reached: the blocks' "
        "rate over what their busiest one allows",
        {
            _BASE: ["backprop"],
            "on all cores": ["backprop_threads"],
            "DDP": ["ddp"],
            "FSDP2": ["fsdp"],
            "best pipeline": _PIPELINES,
            "blocks": ["blocks"],
            "blocks, bf16": ["blocks_bf16"],
        },
        lambda side: float(side["images_per_s"]),
        max,
        "{:.1f}",
    ),
    _Kind(
        "memory",
        "MiB of tensors in the process that needs most; in brackets their ratio to "
        "back-propagation",
        {
            _BASE: ["backprop"],
            "checkpointing": ["checkpoint"],
            "accumulation": ["accumulate"],
            "FSDP2": ["fsdp"],
            "best pipeline": _PIPELINES,
            "blocks in turn": ["greedy"],
            "in turn, accumulation": ["greedy_accumulate"],
            "in parallel": ["blocks"],
            "in parallel, accumulation": ["blocks_accumulate"],
        },
        lambda side: float(max(side["allocated_mib"])),
        min,
        "{:,.0f}",
    ),
)


def overview(directory: Path = RECORDS) -> View:
    """Return a table of rates and one of memory, as far as there are records.

    Args:
        directory: Where the records are.

    Returns:
        ``parallel`` and ``memory``: by record and column the value that the table shows, None where
        nothing was measured. The best of a row is bold there.

    Raises:
        InputError: if a record is of something else.
    """
    results, tables = {}, []
    for kind in _KINDS:
        documents = _records(kind.name, directory)
        values = {name: _values(document, kind) for name, document in documents.items()}
        results[kind.name] = values
        rows = [
            [_in_words(name, documents[name]), *_cells(row, kind)] for name, row in values.items()
        ]
        headings = ["", *kind.columns]
        if kind.name == "parallel":
            headings.append("reached")
            for row, document in zip(rows, documents.values(), strict=True):
                share = document.get("share_reached")
                row.append("–" if share is None else f"{share:.2f}")
        if rows:
            tables.append(Table(kind.title, headings, rows))
    return View(results, tables)


def _records(kind: str, directory: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(directory.glob(f"{kind}_*.json")):
        document = read_json(path)
        if not isinstance(document, dict) or not {"header", "setting", "link"} <= document.keys():
            raise InputError.rule(str(path), "must be a record", f"none of `benchmarks {kind}`")
        found[path.stem] = document
    return found


def _values(document: Mapping[str, Any], kind: _Kind) -> dict[str, float | None]:
    measured = {
        name: kind.value(side)
        for name, side in document.items()
        if isinstance(side, dict) and "images_per_s" in side
    }
    values: dict[str, float | None] = {}
    for heading, sides in kind.columns.items():
        own = [value for name, value in measured.items() if name.partition("/")[0] in sides]
        values[heading] = kind.best(own) if own else None
    return values


def _cells(values: Mapping[str, float | None], kind: _Kind) -> list[str]:
    best = kind.best(value for value in values.values() if value is not None)
    base, cells = values[_BASE], []
    for heading, value in values.items():
        text = "–" if value is None else kind.form.format(value)
        if value is not None and base is not None and heading != _BASE:
            text += f" ({value / base:.2f})"
        cells.append(f"**{text}**" if value == best else text)
    return cells


def _in_words(name: str, document: Mapping[str, Any]) -> str:
    setting = RivalSetting.model_validate(document["setting"])
    words = f"{setting.backbone} ×{setting.width_multiplier:g}, {setting.image_size} px, "
    words += f"batch {setting.batch_size}, {setting.decoupling.in_words()}"
    if document["link"] is not None:
        words += f", by {document['link']['rate']}"
    doubts = Header.model_validate(document["header"]).doubts
    mark = f", {' and '.join(doubts)}" if doubts else ""
    return f"[{words}](../../benchmarks/records/{name}.md){mark}"


def written(directory: Path = RECORDS) -> str:
    """Return what stands between the marks of the guide."""
    tables = overview(directory).tables
    return "\n\n".join(table.markdown() for table in tables) or _NONE_YET


def put(text: str, document: Path = GUIDE) -> None:
    """Replace what stands between the marks of a document.

    Raises:
        InputError: if it does not have both, once.
    """
    before = document.read_text(encoding="utf-8")
    head, begin, rest = before.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (begin and end) or _BEGIN in tail:
        raise InputError.rule(str(document), "must have once", f"{_BEGIN} ... {_END}")
    after = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    write_atomically(document, lambda path: path.write_text(after, encoding="utf-8"))
