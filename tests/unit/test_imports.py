"""The library stands alone: what plugs it into NNI imports it, and never the other way round."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from blocked_imports import run_blocking

import sedona_nni

ROOT = Path(__file__).parents[2]
MODULES = sorted(module.name for module in pkgutil.iter_modules(sedona_nni.__path__, "sedona_nni."))


def test_the_library_needs_neither_nni_nor_lightning_nor_optuna() -> None:
    blocked = ["nni", "pytorch_lightning", "lightning", "optuna"]
    blocked += ["search_spaces", "strategies", "trials"]
    code = f"""
        import importlib
        for name in ["sedona_nni", *{MODULES!r}]:
            importlib.import_module(name)
    """
    assert {"sedona_nni.search", "sedona_nni.training", "sedona_nni.command_line"} <= set(MODULES)
    done = run_blocking(blocked, code)
    assert done.returncode == 0, done.stderr


def test_a_blocked_import_would_be_noticed() -> None:
    done = run_blocking(["nni"], "import strategies.nni_border.trial")
    assert "No module named 'nni'" in done.stderr


def test_the_search_spaces_need_no_strategies_and_strategies_no_trials() -> None:
    code = "import search_spaces.decoupling_space"
    assert run_blocking(["strategies", "trials", "optuna"], code).returncode == 0
    code = "import strategies.tuner, strategies.bridge, strategies.settings"
    assert run_blocking(["trials"], code).returncode == 0


HEAVY = {"matplotlib", "pandas", "scipy", "sklearn", "torchmetrics", "torchvision"}
PLUGINS = {"lightning", "nni", "optuna", "pytorch_lightning"}


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        # What `sedona-nni --help` waits for
        ("sedona_nni.command_line", {"torch"} | HEAVY | PLUGINS),
        # What a search, or a training, waits for
        ("sedona_nni.search", HEAVY | PLUGINS),
        ("sedona_nni.training", HEAVY | PLUGINS),
        ("trials.train", HEAVY | PLUGINS),
        # NNI gives a tuner ten seconds to start
        ("strategies.tuner", {"torch", "optuna", "pytorch_lightning", "nni.nas", "torchvision"}),
        # A trial that only trains needs no one-shot search
        ("trials.__main__", {"optuna", "pytorch_lightning", "nni.nas", "torchvision"}),
    ],
)
def test_what_is_not_always_needed_is_imported_late(name: str, unneeded: set[str]) -> None:
    code = f"import sys, {name}; print(*sorted({unneeded!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
