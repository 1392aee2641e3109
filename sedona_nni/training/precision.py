"""What forward passes compute in: mixed precision, and what a GPU makes of float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sedona_nni.training.settings import Precision

__all__ = ["autocast", "float32_products"]

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, amp: Precision) -> torch.autocast:
    """Return the context in which a forward pass runs in mixed precision."""
    return torch.autocast(device.type, _DTYPES[amp], enabled=amp != "no")


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Say what a GPU makes of convolutions and products of matrices in float32, for a while.

    Left alone, torch rounds the factors of convolutions to TF32, which has 10 bits of float32's 23,
    and those of other products not at all.

    Args:
        tf32: Whether to round them all, or none.
    """
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for kind, former in zip(kinds, before, strict=True):
            kind.fp32_precision = former
