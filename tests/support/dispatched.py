"""What a test needs to see each operation that torch's dispatcher does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "tensors_in"]


def tensors_in(what: Any) -> Iterator[Tensor]:
    """Yield the tensors among an operation's arguments or results, which may be in lists."""
    if isinstance(what, Tensor):
        yield what
    elif isinstance(what, list | tuple):
        for each in what:
            yield from tensors_in(each)
