"""What a process does with the memory that it frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# 16 MiB, allocated and freed: what glibc then maps from the system for it alone, and what it holds
# free for the next, MiB. By its own account, as not every system counts pages that it had to clear.
STEP = """
import ctypes, torch
from sedona_nni.machine import keep_freed_memory
class Account(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
keep_freed_memory()
before = mallinfo2()
block = torch.ones(2**22)
during = mallinfo2()
del block
print(during.hblkhd - before.hblkhd >> 20, mallinfo2().fordblks >> 20)
"""


def mapped_and_held(**environment: str) -> list[int]:
    result = subprocess.run(
        [sys.executable, "-c", STEP],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in result.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    mapped, held = mapped_and_held()
    assert mapped == 0
    assert held >= 15
    mapped, _ = mapped_and_held(MALLOC_MMAP_THRESHOLD_="65536")
    assert mapped == 16, "it goes back to the system as soon as it is free"
