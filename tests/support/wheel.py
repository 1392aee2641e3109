"""The project as a wheel, in an environment that has it from nowhere else."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["ROOT", "build_wheel", "install"]

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """Build a wheel of this checkout, without leaving anything in it."""
    source = folder / "source"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "results", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    _pip(*build, str(source))
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Install a wheel into a new environment that borrows all else from this one.

    Returns:
        The folder of the environment's commands.
    """
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A line of a path file is a place to look in; the path files there are not read, and so an
    # editable installation of this project is not found
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
    python = environment / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    return environment / "bin"


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
