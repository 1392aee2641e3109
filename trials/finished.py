"""What an earlier run left in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, reading
from sedona_nni.strategies.best_model import BEST_FOLDER
from sedona_nni.trials.run import RUN_FILE

__all__ = ["finished_results", "model_folder"]


def model_folder(directory: Path) -> Path:
    """Return where a trained network lies: in a directory, or in that for the best one in it, as
    the results of an experiment have it."""
    best = directory / BEST_FOLDER
    return best if not (directory / RUN_FILE).exists() and best.is_dir() else directory


def finished_results(directory: Path) -> dict[str, Any] | None:
    """Return what ``results.json`` in ``directory`` holds, None if there is none.

    Raises:
        InputError: if it cannot be read or is something else.
    """
    path = directory / "results.json"
    if not path.exists():
        return None
    with reading(path, "remove it to compute it again"):
        found: dict[str, Any] = read_json(path)
        if not isinstance(found, dict) or "default" not in found:
            raise InputError(f"{path}: does not hold results")
    return found
