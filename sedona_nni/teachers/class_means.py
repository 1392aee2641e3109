"""Logits for a teacher without a classifier: by the running means of classes.

Notation:
    z       features of unit length, (B, n)
    m_c     mean of class c: m_c <- 0.9 m_c + 0.1 mean of z over the batch's images of c, where it
            has any; over shares of images, where these were mixed
    t       temperature

    logits_c = z.m_c / t

No gradient comes of it, and nothing is learned but the means: it tells what the features know of
the classes, and teaches nobody.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ClassMeans"]

_MOMENTUM = 0.1  # that of batch norms


class ClassMeans(nn.Module):
    """The means m, shape (classes, n), and the logits by them."""

    def __init__(self, num_classes: int, width: int, temperature: float) -> None:
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", torch.zeros(num_classes, width))
        self.temperature = temperature

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, n) to logits, (B, classes)."""
        return z @ self.means.T / self.temperature

    @torch.no_grad()
    def follow(self, z: Tensor, shares: Tensor) -> None:
        """Take a batch into the means.

        Args:
            z: (B, n).
            shares: Of each class, (B, classes).
        """
        number = shares.sum(0)[:, None]
        means = shares.T @ z / number.clamp(min=torch.finfo(z.dtype).tiny)
        self.means.lerp_(means, _MOMENTUM * (number > 0).to(z.dtype))
