"""The table of DGL's family: every contender trains, finished runs are kept, rows by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import kept_trainings
from benchmarks.dgl_family import CONTENDERS, SETTINGS, draw, runs, tables
from sedona_nni.errors import InputError
from sedona_nni.task import Task

DIGITS = Task(backbone="dgl-cnn4", width_multiplier=0.0625, image_size=8, train_limit=100)
SHORT = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 40})


@pytest.mark.slow(reason="ten trainings")
def test_every_contender_trains_and_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runs(None, 1, tmp_path, DIGITS, SHORT)
    assert list(found) == list(CONTENDERS)
    for name, contender in CONTENDERS.items():
        (result,) = found[name]
        assert 0 <= result["test_accuracy"] <= 1
        assert result["cpu_s"] > 0
        assert result["seed"] == SETTINGS.seed
        history = result["history"]
        uses_auxiliary = "none" not in contender.rule
        assert ("block_1_accuracy" in history) == uses_auxiliary
        if contender.method["name"] == "asynchronous":
            assert history["block_3_epochs"][-1] == 1
    # What all have in common: the first layer learns the same whether others learn, too, or not
    parallel, sequential = (found[name][0] for name in ("DGL, mlp-sr", "sequential, mlp-sr"))
    firsts = [result["history"]["block_1_accuracy"][0] for result in (parallel, sequential)]
    assert firsts[0] == firsts[1]

    def no_more(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(kept_trainings, "run_training", no_more)
    assert runs(None, 1, tmp_path, DIGITS, SHORT) == found
    with pytest.raises(AssertionError):  # another seed, and other settings, are other trainings
        runs(None, 2, tmp_path, DIGITS, SHORT)
    with pytest.raises(AssertionError):
        runs(None, 1, tmp_path, DIGITS, SHORT.model_copy(update={"lr": 0.01}))


def result(accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "test_accuracy": accuracy,
        "peak_memory_mib": 2.0,
        "parameters": 5000,
        "macs": 2_500_000,
        "cpu_s": 7.0,
        "history": {"epoch": [], **more},
    }


def test_tables_by_hand(tmp_path: Path) -> None:
    """Means and sample deviations; of a sequential training only a layer's own epochs."""
    found = {name: [result(0.5), result(0.7)] for name in CONTENDERS}
    found["DNI"] = [result(0.4), result(0.4)]
    own = [0.1 * epoch for epoch in range(SETTINGS.epochs)]
    curves = {f"block_{layer}_accuracy": own for layer in range(1, 5)}
    later = {name: [None, *curve, 1.0, 1.0] for name, curve in curves.items()}
    found["DGL, mlp-sr"] = [result(0.5, **curves), result(0.7, **curves)]
    found["sequential, mlp-sr"] = [result(0.5, **later), result(0.6, **later)]
    accuracies, layers, gaps = tables(found)
    row = dict(zip(accuracies.headings, accuracies.rows[0], strict=True))
    assert row == {
        "contender": "back-propagation",
        "accuracy": "60.00 ± 14.14",
        "values": "50.00, 70.00",
        "memory": "2.0",
        "parameters": "5",
        "MACs": "2.50",
        "time": "7.00 ± 0.00",
    }
    assert layers.rows[2] == ["3", "0.00 ± 0.00", "0.00 ± 0.00", "70.00 ± 0.00", "70.00 ± 0.00"]
    assert [row[1:] for row in gaps.rows] == [
        ["0.00 ± 0.00", "0.58"],
        ["0.00 ± 0.00", "-3.61"],
        ["-20.00 ± 14.14", "-19.73"],
        ["5.00 ± 7.07", "0.73"],
    ]
    draw(tmp_path / "curves.png", found)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_data_set_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data_dir"):
        runs(str(tmp_path), 1, tmp_path / "runs")
