"""`strategies.best_model`: what an experiment keeps of its best training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_records import record, searched, trained

from sedona_nni.reporting.ledger import Ledger, TrialRecord
from sedona_nni.strategies.best_model import keep_best
from sedona_nni.strategies.nni_border.wire import packed, trial_folder


def ledger(path: Path, *records: TrialRecord) -> Ledger:
    trials = [each.model_dump(mode="json") for each in records]
    path.write_text(json.dumps({"format": "sedona-nni/trials/2", "trials": trials}))
    return Ledger(path)


def leave(folder: Path, accuracy: float) -> None:
    """Leave what a training leaves, and something of NNI's."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "model.safetensors").write_text(f"weights of {accuracy}")
    (folder / "results.json").write_text(json.dumps({"default": accuracy}))
    (folder / "stderr").write_text("words")


def trial(experiment: Path, id_: str, key: str) -> Path:
    """Return the folder of a trial that has sent its result."""
    folder = trial_folder(experiment, id_)
    packed({"key": key, "default": 0.5, "data": "cats"}, ("default",), folder)
    return folder


def test_it_is_that_of_the_training_that_validated_best(tmp_path: Path) -> None:
    for id_, key, accuracy in (("x", "sedona-000", 0.8), ("y", "uniform-000", 0.9)):
        leave(folder := tmp_path / "nni" / "environments" / "local-env" / "trials" / id_, accuracy)
        assert trial(tmp_path / "nni", id_, key) == folder
    best = tmp_path / "results" / "best"
    records = [searched(), trained("sedona-000", 0.8)]
    assert keep_best(ledger(tmp_path / "l", *records), tmp_path / "nni", best)
    assert {path.name for path in best.iterdir()} == {
        *("run.json", "model.safetensors", "results.json")
    }
    assert (best / "model.safetensors").read_text() == "weights of 0.8"

    more = [*records, trained("uniform-000", 0.9), record("random-000", status="failed", reason="")]
    for _ in range(2):
        assert keep_best(ledger(tmp_path / "l", *more), tmp_path / "nni", best)
        assert (best / "model.safetensors").read_text() == "weights of 0.9"
    assert [path.name for path in best.parent.iterdir()] == ["best"]


def test_of_several_seeds_the_best(tmp_path: Path) -> None:
    folder = trial(tmp_path, "x", "grid-000")
    for seed, accuracy in enumerate((0.4, 0.6, 0.5)):
        leave(folder / f"seed-{seed}", accuracy)
    assert keep_best(ledger(tmp_path / "l", trained("grid-000", 0.5)), tmp_path, tmp_path / "b")
    assert (tmp_path / "b" / "model.safetensors").read_text() == "weights of 0.6"


@pytest.mark.parametrize("key", ["search", "sedona-000"])
def test_nothing_is_kept_of_what_is_not_here(tmp_path: Path, key: str) -> None:
    """A search leaves no network, and a training may have been on another machine."""
    records = [searched()] if key == "search" else [searched(), trained("sedona-000", 0.5)]
    trial(tmp_path, "x", "search")
    assert not keep_best(ledger(tmp_path / "l", *records), tmp_path, tmp_path / "best")
    assert not (tmp_path / "best").exists()
