"""Batch norm in training mode whose statistics are as exact as the numbers they are of.

On a CPU, torch adds up a channel's numbers one after another where features are in
``torch.channels_last``. In float32 that costs up to 1e-4 of a variance (131,072 numbers), where
rounding the features costs 1e-7. A search notices: each step's error changes the sign of some
pre-activations, each changed sign is a jump of the gradient, and the next step starts from there
(docs/method.md, section 4). Ordinary training, which takes no derivative through its steps, does
not, and keeps torch's kernel.

Here a channel's numbers are added up in parts of at most `_ROWS`, then the parts:

    x          (M, C) pixels of the whole batch, in channels_last one after another in memory
    rows       (M / P, P C) the same memory: pixel m is in row m // P, part m mod P
    m_p, v_p   mean and variance of part p by torch's kernel, for which it is a channel of its own
    mean       mean_p m_p
    var        mean_p v_p + mean_p (m_p - mean)^2

The backward pass adds up in the same way. It reads what torch's kernel reads, but by more calls.

Where `sedona_nni.kernels` are compiled, they do all of it, and an activation that follows, in two
passes each way.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sedona_nni.kernels import batch_norm as compiled

__all__ = ["NO_ACTIVATION", "BatchNorm", "batch_norm", "normalise", "track"]

BatchNorm = _BatchNorm
"""Every batch norm of torch's: what they have in common has no public name there."""

NO_ACTIVATION = 1.0
"""The slope below zero of what changes nothing."""

_ROWS = 256  # numbers that may be added up one after another


def batch_norm(norm: BatchNorm, features: Tensor, slope: float = NO_ACTIVATION) -> Tensor:
    """Return what a batch norm in training mode makes of features, and move its statistics.

    Differentiable once. On a GPU, for few numbers, and in a layout whose channels torch's kernel
    adds up well, it is that kernel; but for what the kernels of this project do.

    Args:
        norm: With running statistics and a momentum.
        features: Shape (B, channels, ...), no dual numbers.
        slope: Of the leaky ReLU that follows, below zero; 0 is a ReLU, 1 none.
    """
    affine: tuple[Tensor, Tensor] = (norm.weight, norm.bias)
    if not norm.affine:
        affine = (features.new_ones(features.shape[1]), features.new_zeros(features.shape[1]))
    if compiled.fits(features, affine[0]):
        _count(norm)
        result: Tensor = _Compiled.apply(features, *affine, norm, slope)
        return result
    parts = _parts(features)
    if parts == 1:
        out: Tensor = BatchNorm.forward(norm, features)
    else:
        out, mean, variance = _Blocked.apply(features, *affine, norm.eps, parts)
        track(norm, mean, variance, features.numel() // features.shape[1])
    return out if slope == NO_ACTIVATION else F.leaky_relu(out, slope)


def normalise(features: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (x - mean) s and s = 1 / sqrt(var + eps), (channels,), of features (B, channels, ...).

    Not recorded for differentiation.
    """
    parts = _parts(features)
    if parts == 1:
        z, _, s = torch.native_batch_norm(features, None, None, None, None, True, 0.0, eps)
        return z, s
    rows = _rows(features, parts)
    mean, variance = _statistics(rows, parts)
    s = (variance + eps).rsqrt()
    return _features(_affine(rows, s, -mean * s, parts), features), s


def track(norm: BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update running statistics as the norm itself would.

    Args:
        norm: With a momentum.
        mean: Of the batch, (channels,).
        variance: Likewise; biased.
        count: Of how many numbers per channel.
    """
    for running, batch, factor in (
        (norm.running_mean, mean, 1.0),
        (norm.running_var, variance, count / (count - 1)),
    ):
        # .data: as torch's kernel does, without marking what other norms have saved as changed
        cast(Tensor, running).data.lerp_(batch * factor, cast(float, norm.momentum))
    _count(norm)


def _count(norm: BatchNorm) -> None:
    cast(Tensor, norm.num_batches_tracked).add_(1)


class _Compiled(torch.autograd.Function):
    """(x, weight, bias) -> a(y), with a the activation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: BatchNorm, slope: float
    ) -> Tensor:
        running = (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))
        momentum = cast(float, norm.momentum)
        y, _, moments = compiled.normalise(
            x, None, (weight, None), (bias, None), norm.eps, slope, running, momentum
        )
        ctx.save_for_backward(x, weight, bias, moments)
        ctx.slope = slope
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, moments = ctx.saved_tensors
        return (*compiled.normalise_back(e, x, weight, bias, ctx.slope, moments), None, None)


class _Blocked(torch.autograd.Function):
    """(x, weight, bias) -> (y, mean, var); the latter two are constants."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, parts: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x, parts)
        mean, variance = _statistics(rows, parts)
        s = (variance + eps).rsqrt()
        scale = weight * s
        ctx.save_for_backward(x, weight, mean, s)
        ctx.parts = parts
        ctx.mark_non_differentiable(mean, variance)
        out = torch.empty_like(x)  # no view of another tensor: residual blocks add to it in place
        _affine(rows, scale, bias - mean * scale, parts, out=out.movedim(1, -1).view(rows.shape))
        return out, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, s = ctx.saved_tensors
        rows, e_rows = _rows(x, ctx.parts), _rows(e, ctx.parts)
        _, sums_ze, sums_e = torch.ops.aten.native_batch_norm_backward(
            e_rows,
            rows,
            None,
            None,
            None,
            mean.repeat(ctx.parts),
            s.repeat(ctx.parts),
            True,
            0.0,
            [False, True, True],
        )
        to_weight, to_bias = (sums.view(ctx.parts, -1).sum(0) for sums in (sums_ze, sums_e))
        # w s (e - m(e) - z m(z e)) with z = s (x - mean), as in `dual_norm`
        count = x.numel() // x.shape[1]
        scale = weight * s
        along_x = -scale * s * to_weight / count
        constant = -scale * to_bias / count - along_x * mean
        to_x = _affine(rows, along_x, constant, ctx.parts)
        to_x.addcmul_(e_rows, scale.repeat(ctx.parts))
        return _features(to_x, x), to_weight, to_bias, None, None


def _parts(features: Tensor) -> int:
    """Return P; 1 means that torch's kernel will do."""
    if features.device.type != "cpu" or not features.movedim(1, -1).is_contiguous():
        return 1
    return _fewest_parts(features.numel() // features.shape[1], _ROWS)


@functools.cache
def _fewest_parts(count: int, largest: int) -> int:
    """Return how many equal parts, none above ``largest``, make up ``count`` numbers."""
    return next(
        parts for parts in range(1, count + 1) if count % parts == 0 and count <= largest * parts
    )


def _rows(features: Tensor, parts: int) -> Tensor:
    return features.movedim(1, -1).reshape(-1, parts * features.shape[1])


def _features(rows: Tensor, like: Tensor) -> Tensor:
    """Undo `_rows`."""
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)


def _statistics(rows: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel."""
    means, variances = torch.batch_norm_update_stats(rows, None, None, 0.0)
    between, mean = torch.var_mean(means.view(parts, -1), 0, correction=0)
    return mean, variances.view(parts, -1).mean(0) + between


def _affine(
    rows: Tensor, scale: Tensor, shift: Tensor, parts: int, out: Tensor | None = None
) -> Tensor:
    """Return scale x + shift per channel, in the rows' form."""
    return torch.addcmul(shift.repeat(parts), rows, scale.repeat(parts), out=out)
