"""How a block learns from its own loss: forward, backward at once, update."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sedona_nni.decouplings.decoupled import Block
from sedona_nni.teachers.auxiliary import Seen
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import Precision

__all__ = ["Stepped", "block_step"]


class Stepped(NamedTuple):
    """What came of a step of a block.

    Attributes:
        features: What the block made of its input.
        loss: Its loss, shape ().
        lent: What its last layer was given, where the block above learns through it; else None.
    """

    features: Tensor
    loss: Tensor
    lent: Tensor | None


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
    below: Tensor | None = None,
    shared: tuple[nn.Module, Tensor] | None = None,
    lends: bool = False,
) -> Stepped:
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
        accumulate: n, in how many parts the batch is taken; fewer where
            parts would have single images.
        images: The batch's images, for a block that looks at them, or whose teacher does, also at
            ``features``.
        transport: t, of t/2 times `Passed.moved`, which is added to the loss.
        below: What the block below was given, for a context made of it.
        shared: Above an overlap the last layer of the block below, and what that was given. Its
            gradient of this loss is added to what it has.
        lends: Whether the block above is to be shared the last layer with.

    Returns:
        What came of it before the update, without a graph.
    """
    outputs, lent, total = [], [], torch.zeros((), device=features.device)
    count = max(1, min(accumulate, len(features) // 2))

    def parts(whole: Tensor | None) -> Iterable[Tensor | None]:
        return itertools.repeat(None) if whole is None else whole.tensor_split(count)

    several = zip(
        features.tensor_split(count),
        labels.tensor_split(count),
        parts(images),
        parts(below),
        parts(None if shared is None else shared[1]),
        strict=False,
    )
    for part, targets, shown, under, given in several:
        seen = None if shown is None else Seen(shown, part)
        with autocast(features.device, amp):
            beside, moved = block.beside(shown, under), None
            if transport or lends or shared is not None:
                again = None if shared is None or given is None else (shared[0], given)
                output, last, moved = block.through(
                    part, beside, shared=again, transports=transport > 0
                )
                if lends:
                    lent.append(last.detach())
                del last
            else:
                output = block(part, beside)  # as a module, with its hooks
            loss, _ = block.local_loss(output, targets, criterion, seen)
            if moved is not None:
                loss = loss + transport / 2 * moved
        share = len(part) / len(features)
        scaler.scale(loss if share == 1 else share * loss).backward()
        outputs.append(output.detach())  # the cut: nothing here learns from the block above
        total = total + share * loss.detach()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return Stepped(_joined(outputs), total, _joined(lent) if lends else None)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
