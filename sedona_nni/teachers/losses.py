"""The loss that every classifier learns from unless its auxiliary network brings its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LabelSmoothing", "class_shares"]


def class_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class in each image, (B, num_classes).

    Args:
        labels: Class numbers, (B,); or shares already, where images were mixed.
        num_classes: How many classes there are.
    """
    return labels if labels.is_floating_point() else F.one_hot(labels, num_classes)


class LabelSmoothing(nn.Module):
    """Cross-entropy against softened labels, mean over the batch, in nats.

    Of C classes the labelled one has the target probability 1 - eps and each other one
    eps / (C-1); eps = 0 is plain cross-entropy. PyTorch's ``label_smoothing=e`` puts 1 - e + e/C
    and e/C instead, which is the same thing at e = eps C / (C-1).
    Source: the public SEDONA release (its default is eps = 0.1).
    """

    def __init__(self, eps: float = 0.1) -> None:
        """Choose eps, from 0 to (C-1)/C, where all classes would be equally likely."""
        super().__init__()
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, shape (), of logits (B, C) and class numbers (B,), or shares (B, C)."""
        num_classes = logits.shape[-1]
        return F.cross_entropy(
            logits, labels, label_smoothing=self.eps * num_classes / (num_classes - 1)
        )

    def extra_repr(self) -> str:
        """Show eps when the module is printed."""
        return f"eps={self.eps}"
