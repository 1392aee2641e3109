"""Mixed precision: what forward passes compute in."""

from __future__ import annotations

import torch

from sedona_nni.training.settings import Precision

__all__ = ["autocast"]

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, amp: Precision) -> torch.autocast:
    """Return the context in which a forward pass runs in mixed precision."""
    return torch.autocast(device.type, _DTYPES[amp], enabled=amp != "no")
