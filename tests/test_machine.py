"""What a process does with the memory that it frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Steps that allocate and free 64 MiB in maps of 4 MiB, and what glibc holds for the next, MiB: by
# its own account, as not every system counts the pages that it had to clear
STEPS = """
import ctypes, sys, torch
from sedona_nni.machine import keep_freed_memory
class Account(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
keep = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    maps = [torch.ones(2**20) for _ in range(16)]
for _ in range(5):
    step()
print(mallinfo2().fordblks >> 20)
"""


def held(what: str, **environment: str) -> int:
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
    """A step has 64 MiB; what glibc hands back by itself starts at twice its largest piece."""
    assert held("keep") > 60
    assert held("give back") < 30
    assert held("keep", MALLOC_TRIM_THRESHOLD_="131072") < 30
