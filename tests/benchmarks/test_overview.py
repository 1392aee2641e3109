"""The tables of all records of blocks and their rivals, and the guide that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rival_sides import TINY

from benchmarks.record import header
from benchmarks.rivals.overview import GUIDE, overview, put, written
from sedona_nni.errors import InputError


def side(images_per_s: float, *allocated_mib: float) -> dict[str, Any]:
    return {"images_per_s": images_per_s, "allocated_mib": list(allocated_mib)}


SIDES = {
    "backprop": side(50, 400),
    "ddp": side(45, 410, 390),
    "gpipe/4": side(60, 100, 300),
    "1f1b/4": side(55, 100, 200),
    "fsdp": {"failure": "broken"},
    "blocks": side(80, 150, 220),
    "greedy": side(50, 320),
}


def record(name: str, folder: Path, *, link: dict[str, Any] | None = None, **sides: Any) -> None:
    document = {
        "header": {**header(n=3).model_dump(mode="json"), "dirty": False},
        "setting": TINY.model_dump(mode="json"),
        "link": link,
        **sides,
    }
    document["header"]["machine"]["load"] = 0.0
    (folder / f"{name}.json").write_text(json.dumps(document))


def test_a_row_for_each_record_and_the_best_of_it_is_bold(tmp_path: Path) -> None:
    record("parallel_a", tmp_path, share_reached=0.97, **SIDES)
    record("parallel_b", tmp_path, link={"rate": "1gbit"}, ddp=side(90, 1), blocks=side(80, 1))
    record("memory_a", tmp_path, **SIDES)
    record("precision", tmp_path)
    view = overview(tmp_path)
    assert view.results["parallel"]["parallel_a"] == {
        "back-propagation": 50,
        "on all cores": None,
        "DDP": 45,
        "FSDP2": None,
        "best pipeline": 60,
        "blocks": 80,
        "blocks, bf16": None,
    }
    rates, memory = (table.rows for table in view.tables)
    fast = ["50.0", "–", "45.0 (0.90)", "–", "60.0 (1.20)", "**80.0 (1.60)**", "–", "0.97"]
    assert rates[0][1:] == fast
    assert rates[1][1:] == [
        "–",
        "–",
        "**90.0**",
        "–",
        "–",
        "80.0",
        "–",
        "–",
    ]  # a row in which blocks lose
    assert rates[0][0].startswith("[vgg11 ×0.125, 32 px, batch 8, cut after layer 2 (conv1)](")
    assert "by 1gbit](../../benchmarks/records/parallel_b.md)" in rates[1][0]
    of_largest = {"in turn": "320 (0.80)", "in parallel": "220 (0.55)", "pipe": "**200 (0.50)**"}
    for text in of_largest.values():
        assert text in memory[0]
    assert [table.title.split()[0] for table in view.tables] == ["images/s;", "MiB"]


def test_a_record_with_doubts_says_so(tmp_path: Path) -> None:
    record("parallel_a", tmp_path, **SIDES)
    path = tmp_path / "parallel_a.json"
    document = json.loads(path.read_text())
    document["header"]["dirty"] = True
    path.write_text(json.dumps(document))
    assert overview(tmp_path).tables[0].rows[0][0].endswith("parallel_a.md), dirty")


def test_what_is_no_such_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory_a.json").write_text('{"header": {}}')
    with pytest.raises(InputError, match=r"memory_a\.json: must be a record"):
        overview(tmp_path)


def test_tables_are_put_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    document.write_text(GUIDE.read_text())
    put("| a |", document)
    head, _, tail = document.read_text().partition("| a |")
    assert "There is no record yet" not in head + tail
    put(written(), document)
    assert document.read_text() == GUIDE.read_text()
    document.write_text("no marks")
    with pytest.raises(InputError, match="must have once"):
        put("| a |", document)


def test_the_guide_shows_what_the_records_say() -> None:
    """If not: python -m benchmarks overview --write."""
    assert f"\n\n{written()}\n\n" in GUIDE.read_text()
