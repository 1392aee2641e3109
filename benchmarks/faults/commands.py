"""Single commands as what faults are done to: a search, a training."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from benchmarks.faults.home import Home
from benchmarks.faults.subject import EXPERIMENT, Subject

__all__ = ["Search", "Train"]

_DIRECTORY = "made"
_OPTIONS = ["--directory", _DIRECTORY, "--device", "cpu", "--json"]


class Search(Subject):
    """``sedona-nni search``."""

    name = "search"
    victims = computing = ("command",)

    def words(self, home: Home) -> list[str]:
        """See `Subject.words`."""
        return ["search", EXPERIMENT, *_OPTIONS]

    def results(self, home: Home) -> dict[str, Any]:
        """See `Subject.results`."""
        return _results(home, "search-result.json")


class Train(Subject):
    """``sedona-nni train``, in one process or in parallel."""

    name = "training"
    victims = computing = ("command", "rank")

    def words(self, home: Home) -> list[str]:
        """See `Subject.words`."""
        return ["train", EXPERIMENT, "--decoupling", "uniform:2:mlp", *_OPTIONS]

    def results(self, home: Home) -> dict[str, Any]:
        """See `Subject.results`."""
        return _results(home, "model.safetensors")


def _results(home: Home, made: str) -> dict[str, Any]:
    """Return what is in ``results.json``, once it is there, and what tells a file's bytes."""
    folder = home.folder / _DIRECTORY
    if not (folder / "results.json").exists():
        return {}
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    file = folder / made
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None
    return {"results": results, made: digest}
