"""Whether somebody else is told when a module is called."""

from __future__ import annotations

from torch import nn

__all__ = ["has_hooks"]


def has_hooks(module: nn.Module) -> bool:
    """Return whether the module has hooks, which only a call of the module itself runs."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
