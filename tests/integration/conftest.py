"""Real NNI managers, in a home of their own, with trials that make their results up."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nni_world import ROOT, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "NNI_CONFIG_DIR": str(tmp_path / "nni-config"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "FAKE_TRIAL_LOG": str(tmp_path / "fake-trials.log"),
        "COLUMNS": "200",
    }
    world = World(tmp_path, environment)
    yield world
    for process in world.processes():
        process.kill()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
