"""Sides are measured in turn, each in a process of its own. No times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmark_sides
import pytest

from benchmarks import side_by_side
from benchmarks.side_by_side import Side, compare, comparison_table


class TestCompare:
    @pytest.mark.slow(reason="two processes measure")
    def test_sides_take_turns(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A first turn to warm up, then three that count; who goes first changes."""
        log = tmp_path / "log"
        sides = [
            Side(name, benchmark_sides.logged, (log, name), device="cpu", threads=1)
            for name in ("a", "b")
        ]
        document = compare(sides, repeats=3)
        assert log.read_text() == "baabbaab"
        for name in ("a", "b"):
            values = document[name]["values_s"]
            assert len(values) == 3
            assert document[name]["median_s"] == sorted(values)[1]
        assert document["ratio"] == document["b"]["median_s"] / document["a"]["median_s"]
        assert capsys.readouterr().out == ""

    @pytest.mark.slow(reason="four processes measure")
    def test_memory_and_failures(self) -> None:
        sides = [
            Side("ours", benchmark_sides.large, 300, device="cpu", threads=1),
            Side("boundless", benchmark_sides.large, 2**30, device="cpu", threads=1),
            Side("killed", benchmark_sides.killed, None, device="cpu", threads=1),
            Side("broken", benchmark_sides.broken, None, device="cpu", threads=1),
        ]
        document = compare(sides, repeats=1)
        mine = document["ours"]
        assert mine["peak_mib"] - mine["baseline_mib"] == mine["peak_above_baseline_mib"]
        assert 300 <= mine["peak_above_baseline_mib"] < 400
        assert document["boundless"] == {"failure": "out of memory"}
        assert document["killed"] == {"failure": "out of memory"}
        assert document["broken"] == {"failure": "ended with code 7"}

    def test_table_of_a_side_that_failed(self) -> None:
        fine = {"median_s": 2.0, "values_s": [1.0, 2.0, 3.0], "peak_mib": 1500.0}
        fine["peak_above_baseline_mib"] = 1000.0
        document: dict[str, Any] = {"ours": fine, "naive": {"failure": "out of memory"}}
        document |= dict.fromkeys(["ratio", "memory_ratio", "memory_above_baseline_ratio"])
        table = comparison_table("title", document, ["ours", "naive"])
        assert table.rows == [
            ["ours", "2.000", "1.000", "3.000", "1,500", "1,000"],
            ["naive", "out of memory", "-", "-", "-", "-"],
            ["naive / ours", "-", "-", "-", "-", "-"],
        ]


def test_worker_memory_is_read_from_the_system() -> None:
    now, peak = map(side_by_side.resident_mib, ("VmRSS", "VmHWM"))
    assert 10 < now <= peak
