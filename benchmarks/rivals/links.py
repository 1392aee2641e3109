"""A slow link on one machine: two network namespaces, joined by a veth of a given rate.

The rate is kept by the token bucket filter of the kernel (``tc qdisc ... tbf``), in each direction,
a delay by its network emulator (``netem``), which not every kernel has. Each namespace lives as
long as a process in it does, which reads from this one until there is nothing to read: so nothing
is left, however this process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rivals.processes import Interface
from sedona_nni.errors import InputError

__all__ = ["bits_per_s", "link"]

_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TOOLS = ("ip", "tc", "unshare", "nsenter")
_NAME = "joined"
_TICK_S = 0.004  # of the kernel's clock, at 250 Hz: so much has to pass in one go
_FRAME = 1600


def bits_per_s(rate: str) -> float:
    """Return a rate such as ``100mbit`` as a number.

    Raises:
        InputError: if it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]bit)", rate)
    if match is None or not float(match[1]):
        raise InputError.rule("--link", "must be a rate like 1gbit, 100mbit or 500kbit", rate)
    return float(match[1]) * _UNITS[match[2]]


@contextlib.contextmanager
def link(rate: str, delay_ms: float = 0) -> Iterator[list[Interface]]:
    """Join two new network namespaces, for as long as it is needed.

    Args:
        rate: Of each direction, e.g. ``1gbit`` or ``100mbit``.
        delay_ms: From one end to the other.

    Yields:
        The interface at each end.

    Raises:
        InputError: if the rate is none, or this machine or this user cannot have such a link.
    """
    burst = max(_FRAME, int(bits_per_s(rate) / 8 * _TICK_S))
    if os.geteuid() != 0:
        raise InputError.rule("--link", "must be run by root, who may make networks", rate)
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise InputError.rule("--link", f"must find {', '.join(missing)} on this machine", rate)
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(_namespace()) for _ in range(2)]
        peer = ["peer", "name", _NAME, "netns", ends[1]]
        _inside(ends[0], "ip", "link", "add", _NAME, "type", "veth", *peer)
        for number, end in enumerate(ends, 1):
            _inside(end, "ip", "address", "add", f"10.213.0.{number}/24", "dev", _NAME)
            for device in ("lo", _NAME):
                _inside(end, "ip", "link", "set", device, "up")
            bucket = ["tbf", "rate", rate, "burst", f"{burst}", "latency", "50ms"]
            _inside(end, "tc", "qdisc", "add", "dev", _NAME, "root", "handle", "1:", *bucket)
            if delay_ms:
                emulator = ["netem", "delay", f"{delay_ms:g}ms"]
                _inside(end, "tc", "qdisc", "add", "dev", _NAME, "parent", "1:1", *emulator)
        yield [Interface(_NAME, _file(end)) for end in ends]


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    """Yield the id of a process that is in a network namespace of its own."""
    command = ["unshare", "--net", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as holder:
        try:
            end, own = str(holder.pid), os.readlink("/proc/self/ns/net")
            while holder.poll() is None and os.readlink(_file(end)) == own:
                time.sleep(0.01)
            if holder.poll() is not None:
                assert holder.stderr is not None
                raise _refusal(holder.stderr.read())
            yield end
        finally:
            holder.kill()


def _file(end: str) -> Path:
    return Path("/proc", end, "ns", "net")


def _inside(end: str, *command: str) -> None:
    entered = ["nsenter", "--target", end, "--net", *command]
    done = subprocess.run(entered, capture_output=True, text=True)
    if done.returncode:
        raise _refusal(f"{done.stderr.strip()} ({' '.join(command)})")


def _refusal(said: str) -> InputError:
    return InputError(f"--link: the kernel does not make it: {' '.join(said.split())}")
