"""What a process does with the memory that it frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Steps that allocate and free 64 MiB in maps of 4 MiB, and the pages that had to be cleared
STEPS = """
import resource, sys, torch
from sedona_nni.machine import keep_freed_memory
keep = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    maps = [torch.ones(2**20) for _ in range(16)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def cleared(what: str, **environment: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", STEPS, what],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_unless_the_environment_says_otherwise() -> None:
    """A step has 64 MiB, most of it cleared each time without; how large a page is differs."""
    kept = cleared("keep")
    assert kept < cleared("give back") / 4
    assert kept < cleared("keep", MALLOC_TRIM_THRESHOLD_="131072") / 4
