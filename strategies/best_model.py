"""The best network of an experiment, in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sedona_nni.files import read_json
from sedona_nni.reporting.ledger import Ledger
from sedona_nni.strategies.nni_border.wire import folders_of_trial

__all__ = ["BEST_FOLDER", "keep_best"]

BEST_FOLDER = "best"

# What a training leaves: its settings, where it is cut, its images, its weights, and what it is
# worth. Not what NNI leaves beside it
_MODEL, _RESULTS = "model.safetensors", "results.json"
_FILES = ("run.json", "decoupling.json", "search-result.json", "images.json", _MODEL, _RESULTS)


def keep_best(ledger: Ledger, experiment: Path, into: Path) -> bool:
    """Copy what the training left that validated best.

    A reader of the folder sees one training or another, never parts of both.

    Args:
        ledger: Of the experiment.
        experiment: NNI's folder of it.
        into: The folder that holds it then; what was there is replaced.

    Returns:
        Whether it is there. Where it was trained on another machine, or NNI's folder was removed,
        nothing is done.

    Raises:
        OSError: if it cannot be written.
    """
    trained = [each for each in ledger if not each.is_search and each.status == "succeeded"]
    best = max(trained, key=lambda record: record.validation_accuracy, default=None)
    if best is None:
        return False
    folders = folders_of_trial(experiment, best.key)
    # A trial of several seeds has a folder for each
    left = [path.parent for folder in folders for path in sorted(folder.rglob(_MODEL))]
    source = max(
        (folder for folder in left if (folder / _RESULTS).exists()),
        key=lambda folder: float(read_json(folder / _RESULTS)["default"]),
        default=None,
    )
    if source is None:
        return False
    if not _holds_same(source, into):
        _copy(source, into)
    return True


def _holds_same(source: Path, there: Path) -> bool:
    results = there / _RESULTS
    return results.exists() and results.read_bytes() == (source / _RESULTS).read_bytes()


def _copy(source: Path, into: Path) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}.") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        for name in _FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, new / name)
        if into.exists():
            into.rename(Path(temporary) / "old")
        new.rename(into)
