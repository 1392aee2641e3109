"""What works where something is not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_blocking(names: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process where the names cannot be imported, as if not installed."""
    hide = f"""
        import sys

        class Hiding:
            def __init__(self, finder):
                self.finder = finder

            def __getattr__(self, name):
                return getattr(self.finder, name)

            def find_spec(self, name, path=None, target=None):
                if not any(f"{{name}}.".startswith(f"{{each}}.") for each in {names!r}):
                    return self.finder.find_spec(name, path, target)

        sys.meta_path[:] = map(Hiding, sys.meta_path)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide) + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
