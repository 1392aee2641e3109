"""How much memory is left."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["CGROUP", "available_bytes"]

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use, and uses."""


def available_bytes(device: torch.device) -> int | None:
    """Return how much more memory can be had on a device, None where that cannot be told.

    On the CPU that is what Linux calls available, or what is left to the container.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    try:
        left = _number_in("/proc/meminfo", "MemAvailable:") * 1024
    except (OSError, StopIteration):
        return None
    try:
        most = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = _number_in(
            CGROUP / "memory.stat", "inactive_file"
        )  # in bytes, and can be given up
    except (OSError, ValueError, StopIteration):  # no container, or one without a limit
        return left
    return min(left, max(0, most - used + cached))


def _number_in(path: Path | str, name: str) -> int:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == name)
