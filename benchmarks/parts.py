"""Where the time of a search's step goes, part by part, and what of it is arithmetic.

A step runs once by torch's profiler, on one thread: on several, times of what waits for another are
nobody's. What an operation takes without those that it calls counts for the part that its name
belongs to; what is computed within the wide ends of light networks counts for these. The rest of
the clock's time is Python's.

Beside it stands the least time of the products, of convolutions and matrices, that the step
consists of: their multiplications and additions, at the rate at which this machine does those of a
large product of matrices or of a large convolution, the faster, on one thread at that moment.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.search_steps import StepSetting, ours
from benchmarks.view import Table
from sedona_nni.kernels import batch_norm
from sedona_nni.models.placement import lay_out

__all__ = ["Flops", "part_of", "parts", "parts_table"]

_WIDE, _REST, _PYTHON = "wide ends of light networks", "views, autograd", "Python"
_NORM = "kernel: "
_PARTS = {
    "convolutions": ("conv",),
    "products of matrices": ("mm",),  # also addmm and bmm
    "batch norms with activations": (_NORM, "batch_norm", "_Compiled", "_Blocked", "_Dual"),
    "pooling": ("pool2d",),
    "copies": ("copy_", "clone", "cat", "fill_", "zero_", "stack", "contiguous"),
    "elementwise": (
        *("add", "mul", "div", "sub", "sum", "mean", "relu", "threshold", "gt", "lerp", "sqrt"),
        *("neg", "exp", "log", "softmax", "cross_entropy", "pow", "where", "maximum", "clamp"),
    ),
}
"""What of an operation's name says where it belongs; the first that fits."""

_SIZE = 1536  # of the matrices that are multiplied for the rate
_MAPS = (64, 256, 16)  # images, channels and pixels of a side, of the convolution
_REPEATS = 5


def parts(setting: StepSetting) -> dict[str, Any]:
    """Return where the time of a step goes.

    Args:
        setting: Which step, at what sizes; on a CPU.

    Returns:
        ``step_s`` without the profiler; ``parts``: of each its ``calls``, and its ``share`` of the
        profiled step; ``flops``, those of the products of the step; ``flops_per_s``, those that
        this machine reaches; and their quotient, ``least_s``.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # as for `peak_memory_mib`
    run = ours(setting)
    run()
    step_s = _time(run)
    with Flops() as counter:
        run()
    with (
        mock.patch.object(batch_norm, "kernel", _recorded),
        profile(activities=[ProfilerActivity.CPU]) as profiled,
    ):
        took = _time(run)
    own, calls = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in profiled.events():
        part = part_of(event)
        own[part] += event.self_cpu_time_total / 1e6
        calls[part] += 1
    own[_PYTHON] = max(0.0, took - sum(own.values()))
    rate = _rate()
    return {
        "step_s": step_s,
        "parts": {
            part: {"calls": calls[part], "share": own[part] / sum(own.values())}
            for part in (*_PARTS, _WIDE, _REST, _PYTHON)
        },
        "flops": counter.total,
        "flops_per_s": rate,
        "least_s": counter.total / rate,
    }


@torch.no_grad()
def _rate() -> float:
    """Return the multiplications and additions that this machine does in a second."""
    images, channels, side = _MAPS
    factor = torch.randn(_SIZE, _SIZE)
    maps = lay_out(torch.randn(images, channels, side, side))
    weight = lay_out(torch.randn(channels, channels, 3, 3))
    products: list[Callable[[], object]] = [
        lambda: factor @ factor,
        lambda: F.conv2d(maps, weight, padding=1),
    ]
    rates = []
    for product in products:
        with Flops() as counter:
            product()
        rates.append(counter.total / min(_time(product) for _ in range(_REPEATS)))
    return max(rates)


class Flops(TorchDispatchMode):
    """Adds up multiplications and additions, by torch's formulas.

    Torch's own counter also asks modules for their names, by hooks that autograd does not allow
    within a step; and its formula for the gradients of a convolution's weights counts those of g
    groups g times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            towards, _, weight, *_, wanted = args
            each = 2 * len(towards) * math.prod(towards.shape[2:]) * weight.numel()
            self.total += each * sum(wanted[:2])  # of the input, of the weights
        elif (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@functools.cache
def _recorded(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Return a kernel in C that the profiler sees, in the place of `batch_norm.kernel`."""
    kernel = _KERNEL(name, dtype)

    def run(*arguments: Any) -> None:
        with record_function(f"{_NORM}{name}"):
            kernel(*arguments)

    return run


_KERNEL = batch_norm.kernel


def part_of(event: FunctionEvent) -> str:
    """Return the part to which an event of the profiler belongs."""
    if any("PooledRelu" in each.name for each in _with_callers(event)):
        return _WIDE
    for part, marks in _PARTS.items():
        if any(mark in event.name for mark in marks):
            return part
    return _REST


def _with_callers(event: FunctionEvent) -> Iterator[FunctionEvent]:
    caller: FunctionEvent | None = event
    while caller is not None:
        yield caller
        caller = caller.cpu_parent


def parts_table(title: str, measured: dict[str, Any]) -> Table:
    """Return what `parts` returned for readers."""
    step_s = measured["step_s"]
    rows = [
        [part, f"{step_s * of['share']:.3f}", f"{of['share']:.0%}", f"{of['calls']:,}"]
        for part, of in measured["parts"].items()
    ]
    least, rate = measured["least_s"], measured["flops_per_s"] / 1e9
    title = (
        f"{title}, 1 thread: {step_s:.2f} s; its products alone, at the {rate:.0f} GFLOP/s of a "
        f"large one, {least:.2f} s"
    )
    return Table(title, ["part", "s", "share", "calls"], rows)
