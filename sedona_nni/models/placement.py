"""Where a network computes, and in which layout of memory: for whatever trains, judges or measures.

Convolutions have kernels of their own for each layout. They differ in speed and, as they add up in
another order, in the last digits; so a network is tested as it was trained only if both lay it out
alike.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["lay_out", "place"]

_LAYOUT = torch.channels_last  # in which convolutions are fastest, light networks by far

Module = TypeVar("Module", bound=nn.Module)


def place(network: Module, device: torch.device | str) -> Module:
    """Move a network to a device and lay it out there; it is returned.

    Its convolutions then work in this layout, whatever that of the images is.
    """
    network.to(device).to(memory_format=_LAYOUT)
    return network


def lay_out(maps: Tensor) -> Tensor:
    """Return images or feature maps, (B, C, S, S), in that layout.

    For networks that are not placed, as their weights are views of a vector and contiguous: there
    the maps decide.
    """
    return maps.contiguous(memory_format=_LAYOUT)
