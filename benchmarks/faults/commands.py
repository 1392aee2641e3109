"""Single commands as what faults are done to: a search, a training."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from safetensors.numpy import load_file

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
        return _results(home)


class Train(Subject):
    """``sedona-nni train``, in one process or in parallel."""

    name = "training"
    victims = computing = ("command", "rank")

    def words(self, home: Home) -> list[str]:
        """See `Subject.words`."""
        return ["train", EXPERIMENT, "--decoupling", "uniform:2:mlp", *_OPTIONS]

    def results(self, home: Home) -> dict[str, Any]:
        """See `Subject.results`."""
        return {**_results(home), **_weights(home)}


def _results(home: Home) -> dict[str, Any]:
    """Return what is in ``results.json``, once it is there."""
    path = home.folder / _DIRECTORY / "results.json"
    return {"results": json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}


def _weights(home: Home) -> dict[str, str]:
    """Return what tells weights apart, once they are there; not the file's bytes, whose header has
    no order."""
    path = home.folder / _DIRECTORY / "model.safetensors"
    if not path.exists():
        return {}
    weights = load_file(path)
    return {name: hashlib.sha256(weights[name].tobytes()).hexdigest() for name in sorted(weights)}
