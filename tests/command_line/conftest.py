"""Where commands are run, and a search result to run them on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


FOUND = {
    "format": "sedona-nni/search-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "alpha": [[float(i), 0.0] for i in range(7)],  # prefers cuts on top
    "beta": [[0.0, 1.0]] * 7,
}


@pytest.fixture
def found(elsewhere: Path) -> str:
    (elsewhere / "found.json").write_text(json.dumps(FOUND))
    return str(elsewhere / "found.json")
