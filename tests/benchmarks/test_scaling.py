"""Growth with one size: every value is measured, shown and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_sides import SMALL

from benchmarks import scaling
from benchmarks.search_steps import naively, ours
from benchmarks.side_by_side import Side


class TestScaling:
    def test_one_size_is_replaced(self) -> None:
        changed, threads, size = scaling.with_value(SMALL, 2, "inner-steps", "7")
        assert (changed.inner_steps, threads, size) == (7, 2, 7)
        changed, threads, size = scaling.with_value(SMALL, 2, "batch-size", "16")
        assert (changed.batch_size, threads, size) == (16, 2, 16)
        changed, threads, size = scaling.with_value(SMALL, 2, "boundaries", "vgg19")
        assert (changed.backbone, threads, size) == ("vgg19", 2, 15)
        changed, threads, size = scaling.with_value(SMALL, 2, "threads", "4")
        assert (changed, threads, size) == (SMALL, 4, 4)

    def test_every_value_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measured(sides: list[Side], *, repeats: int) -> dict[str, Any]:
            return {side.name: (side.setting.batch_size, side.threads) for side in sides}

        monkeypatch.setattr(scaling, "compare", measured)
        prepare = {"ours": ours, "naive": naively}
        assert scaling.points(SMALL, 2, "batch-size", ["4", "8"], prepare, repeats=1) == [
            {"value": "4", "size": 4, "ours": (4, 2), "naive": (4, 2)},
            {"value": "8", "size": 8, "ours": (8, 2), "naive": (8, 2)},
        ]

    def test_table_and_figure(self, tmp_path: Path) -> None:
        measured = [
            {
                "value": name,
                "size": size,
                "ours": {"median_s": 0.5 * size, "peak_mib": 1000.0},
                "naive": {"failure": "out of memory"},
                "ratio": None,
                "memory_ratio": None,
            }
            for name, size in (("vgg11", 7), ("vgg19", 15))
        ]
        names = ["ours", "naive"]
        table = scaling.scaling_table("title", "boundaries", measured, names)
        assert table.rows[1] == ["15 (vgg19)", "7.500", "1,000", "out of memory", "-", "-", "-"]
        scaling.draw(tmp_path / "figure.svg", "title", "boundaries", measured, names)
        assert "</svg>" in (tmp_path / "figure.svg").read_text()
