"""What is imported late: starting is quick, and NNI gives a tuner ten seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"matplotlib", "pandas", "scipy", "sklearn", "torchmetrics", "torchvision", "triton"}
PLUGINS = {"lightning", "nni", "optuna", "pytorch_lightning"}


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        # What `sedona-nni --help` waits for
        ("sedona_nni.command_line", {"torch"} | HEAVY | PLUGINS),
        # What a search, or a training, waits for
        ("sedona_nni.searches.sedona.search", HEAVY | PLUGINS),
        ("sedona_nni.training.loop", HEAVY | PLUGINS),
        ("sedona_nni.trials.train", HEAVY | PLUGINS),
        # NNI gives a tuner ten seconds to start
        (
            "sedona_nni.strategies.tuner",
            {"torch", "optuna", "pytorch_lightning", "nni.nas", "torchvision"},
        ),
        # A trial that only trains needs no one-shot search
        ("sedona_nni.trials.__main__", HEAVY | PLUGINS),
    ],
)
def test_what_is_not_always_needed_is_imported_late(name: str, unneeded: set[str]) -> None:
    code = f"import sys, {name}; print(*sorted({unneeded!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
