"""Which layouts of memory the convolutions of a computation work in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook


@contextmanager
def watched_layouts() -> Iterator[set[torch.memory_format]]:
    """Yield the set that every convolution adds its output's layout to, where it can be told."""
    seen: set[torch.memory_format] = set()

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(module, nn.Conv2d) or not isinstance(output, Tensor):
            return
        if output.device.type != "meta" and output.shape[1] > 1 and output.shape[2] > 1:
            last = output.is_contiguous(memory_format=torch.channels_last)
            seen.add(torch.channels_last if last else torch.contiguous_format)

    handle = register_module_forward_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()
