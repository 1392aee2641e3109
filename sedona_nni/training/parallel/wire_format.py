"""How a tensor travels from one rank to another.

Only the sender knows what its block returns. So it says first, in whole numbers, how the tensor
comes: dtype, shape without the batch, and the order in which dimensions lie in memory. A tensor
arrives in the layout in which it left, as convolutions round differently in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FORMAT_NUMBERS", "WireFormat"]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
_MOST_DIMENSIONS = 6
FORMAT_NUMBERS = 3 + 2 * _MOST_DIMENSIONS - 1
"""How many numbers a format is sent as."""


@dataclass(frozen=True)
class WireFormat:
    """What a tensor on its way looks like.

    Attributes:
        dtype: That in which it is used.
        wire: That in which it travels.
        shape: Without the batch.
        order: Its dimensions, the batch included, from the outermost in memory.
    """

    dtype: torch.dtype
    wire: torch.dtype
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor, wire: torch.dtype) -> WireFormat:
        """Return a tensor's format.

        Args:
            tensor: Shape (B, ...).
            wire: What a tensor in float32 travels in; others travel as they are.
        """
        strides = tensor.stride()
        order = sorted(range(tensor.dim()), key=lambda place: -strides[place])
        if order[0] != 0 or not tensor.permute(order).is_contiguous():
            order = [*range(tensor.dim())]
        narrow = wire if tensor.dtype == torch.float32 else tensor.dtype
        return cls(tensor.dtype, narrow, tuple(tensor.shape[1:]), tuple(order))

    @classmethod
    def read(cls, numbers: Sequence[int]) -> WireFormat:
        """Undo `numbers`."""
        dtype, wire, dimensions, *rest = numbers
        shape, order = rest[: _MOST_DIMENSIONS - 1], rest[_MOST_DIMENSIONS - 1 :]
        return cls(
            _DTYPES[dtype],
            _DTYPES[wire],
            tuple(shape[: dimensions - 1]),
            tuple(order[:dimensions]),
        )

    def numbers(self) -> list[int]:
        """Return it as `FORMAT_NUMBERS` whole numbers."""
        padding = [0] * (_MOST_DIMENSIONS - len(self.order))
        dtypes = [_DTYPES.index(self.dtype), _DTYPES.index(self.wire)]
        return [*dtypes, len(self.order), *self.shape, *padding, *self.order, *padding]

    def empty(self, count: int, device: torch.device) -> Tensor:
        """Return memory for ``count`` rows, with the dimensions in the order of memory."""
        sizes = (count, *self.shape)
        in_memory = [sizes[place] for place in self.order]
        return torch.empty(in_memory, dtype=self.wire, device=device)

    def packed(self, tensor: Tensor) -> Tensor:
        """Return a tensor as it travels: contiguous, with the dimensions in the order of memory."""
        return tensor.permute(self.order).to(self.wire).contiguous()

    def unpacked(self, memory: Tensor) -> Tensor:
        """Undo `packed`."""
        back = [self.order.index(place) for place in range(len(self.order))]
        return memory.permute(back).to(self.dtype)
