"""Real NNI managers, in a home of their own, with trials that make their results up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nni_world import World, new_world, unused_port


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path) as world:
        yield world


@pytest.fixture
def port() -> int:
    return unused_port()
