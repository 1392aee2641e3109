"""How a block learns from its own loss: forward, backward at once, update."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from sedona_nni.decouplings.decoupled import Block
from sedona_nni.teachers.auxiliary import Seen
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import Precision

__all__ = ["block_step"]


def block_step(
    block: Block,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    criterion: nn.Module,
    scaler: torch.amp.GradScaler,
    amp: Precision = "no",
    accumulate: int = 1,
    images: Tensor | None = None,
    transport: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Update a block once from its own loss.

    With n > 1 parts the block goes forward and backward with one part of the batch after another
    and adds up their gradients, so that the activations of one part are alive at a time:

        gradient = sum_p B_p / B dl_p/dw      of the parts p with B_p of the B images

    For a loss that is a mean over images this is the batch's own gradient, but for batch norms,
    which see a part as their batch.

    Args:
        block: The block, in training mode.
        optimizer: Its optimizer.
        features: What the block below returned, (B, C, S, S), or the images; without a graph.
        labels: Class numbers, (B,), or the share of each class, (B, classes).
        criterion: Mean loss of logits and labels.
        scaler: Scales the loss against underflow in half precision, and is updated.
        amp: Mixed precision of the forward pass.
        accumulate: n, in how many parts the batch is taken; fewer where it has fewer images.
        images: The batch's images, for a teacher that looks at them and at ``features``.
        transport: t, of t/2 times what `Block.transported` counts, which is added to the loss.

    Returns:
        What the block made of its input, and its loss, shape (), both before the update and
        without a graph.
    """
    outputs, total = [], torch.zeros((), device=features.device)
    pixels = itertools.repeat(None) if images is None else iter(images.chunk(accumulate))
    parts = zip(features.chunk(accumulate), labels.chunk(accumulate), strict=True)
    for (part, targets), shown in zip(parts, pixels, strict=False):
        seen = None if shown is None else Seen(shown, part)
        with autocast(features.device, amp):
            output, moved = block.transported(part) if transport else (block(part), 0.0)
            loss, _ = block.local_loss(output, targets, criterion, seen)
            if transport:
                loss = loss + transport / 2 * moved
        share = len(part) / len(features)
        scaler.scale(loss if share == 1 else share * loss).backward()
        outputs.append(output.detach())  # the cut: nothing here learns from the block above
        total = total + share * loss.detach()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), total
