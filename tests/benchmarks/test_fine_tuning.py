"""The study of fine-tuning, on a hundred images."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fine_tuning import CONTENDERS, THEN, THEN_SETTINGS, runs, tables

SMALL = THEN.model_copy(
    update={
        "backbone": 'torchvision:shufflenet_v2_x0_5 {"boundaries": 4}',
        "train_limit": 60,
        "image_size": 16,
    }
)
SHORT = THEN_SETTINGS.model_copy(update={"epochs": 1, "batch_size": 20})


@pytest.mark.slow(reason="eight trainings")
def test_all_ways_begin_with_what_was_learned(tmp_path: Path) -> None:
    small = (SMALL, SHORT)
    found = runs("nowhere", 1, tmp_path, first=small, then=small)
    assert set(found) == {"pretraining", *CONTENDERS}
    (table,) = tables(found)
    assert [row[0] for row in table.rows] == [*CONTENDERS]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert runs("nowhere", 1, tmp_path, first=small, then=small) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == before
