"""The wide end of a light auxiliary network, without its wide feature maps.

A light network ends with a 1x1 convolution to F channels, batch norm, ReLU and the mean over space.
F is 16 to 128 times the width before, so its maps are by far the largest of the whole relaxed
network, and all that remains of them is one number per channel.

Notation (B samples, p channels in, F out, N pixels, all b, n means over samples and pixels):
    x      (B, N, p) features less their mean per channel
    C      (p, p) = mean_bn x^T x
    W      (F, p) convolution;  gamma, beta (F,) weight and bias of the norm
    V      (F, p) = gamma (diag(W C W^T) + eps)^(-1/2) W: batch norm needs only C, not the maps
    z      (B, N, F) = x V^T + beta
    P      (B, F) = mean_n relu(z), the result

With x~ = (x, 1) and V~ = (V, beta), so that z = x~ V~^T, and relu(z) = [z > 0] z,

    P = 1/N sum_p V~_p S_p,   S (B, p+1, F) = sum_n x~ [z > 0].

So the maps are needed only for where they are positive. They are made piece by piece, small enough
to stay in the processor's cache, and made again for the backward pass. Tangents are simple, too:
that of S is sum_n x~' [z > 0].
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["pooled_unit"]

_PIECE = 2**18  # numbers of z made at a time: 1 MiB in float32


def pooled_unit(unit: nn.Sequential, features: Tensor) -> Tensor:
    """Return the mean over space of ``unit(features)``, shape (B, F).

    Args:
        unit: 1x1 convolution without bias, batch norm, activation.
        features: Shape (B, p, H, W). May be dual numbers.
    """
    convolution, norm, activation = unit
    wide = features.shape[2] * features.shape[3] >= features.shape[1]  # else S outgrows the maps
    if not (
        wide
        and unit.training
        and type(activation) is nn.ReLU
        and not torch.is_autocast_enabled(features.device.type)
    ):
        return cast(Tensor, unit(features).mean(dim=(2, 3)))
    norm = cast(nn.BatchNorm2d, norm)
    weight = cast(nn.Conv2d, convolution).weight.flatten(1)
    x = features.permute(0, 2, 3, 1).flatten(1, 2)
    mean = x.mean(dim=(0, 1))
    x = x - mean
    count = x.shape[0] * x.shape[1]
    flat = x.flatten(0, 1)
    covariance = flat.T @ flat / count
    variance = ((weight @ covariance) * weight).sum(1)
    _track(norm, weight @ mean, variance, count)
    scaled = (norm.weight * (variance + norm.eps).rsqrt())[:, None] * weight
    v = torch.cat([scaled, norm.bias[:, None]], dim=1)
    return (v.T * _sums_where_positive(F.pad(x, (0, 1), value=1.0), v)).sum(1) / x.shape[1]


def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the running statistics as the norm itself would."""
    for running, batch in (
        (norm.running_mean, mean),
        (norm.running_var, variance * (count / (count - 1))),
    ):
        # .data: as torch's kernel does, without marking what other norms have saved as changed
        batch = forward_ad.unpack_dual(batch).primal.detach()
        cast(Tensor, running).data.lerp_(batch, cast(float, norm.momentum))
    cast(Tensor, norm.num_batches_tracked).add_(1)


def _sums_where_positive(x: Tensor, v: Tensor) -> Tensor:
    """Return S for x~ (B, N, p+1) and V~ (F, p+1); either may be dual numbers."""
    v = forward_ad.unpack_dual(v).primal.detach()
    value, tangent = forward_ad.unpack_dual(x)
    if tangent is None:
        sums: Tensor = _SumsWherePositive.apply(value, value.detach(), v)
        return sums
    both = _SumsWherePositive.apply(torch.cat([value, tangent], dim=2), value.detach(), v)
    sums, sums_t = both.chunk(2, dim=1)
    return forward_ad.make_dual(sums if value.requires_grad else sums.detach(), sums_t)


class _SumsWherePositive(torch.autograd.Function):
    """y (B, N, q), x~ (B, N, p+1), V~ -> sum_n y [x~ V~^T > 0], (B, q, F); linear in y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        sums = y.new_empty(len(y), y.shape[2], len(v))
        samples = _samples(x, v)
        room = y.new_empty(samples, x.shape[1], len(v))
        parts = (part.split(samples) for part in (x, y.transpose(1, 2), sums))
        for x_part, y_part, sums_part in zip(*parts, strict=True):
            z = room[: len(x_part)]
            torch.mm(x_part.flatten(0, 1), v.T, out=z.view(-1, len(v)))
            torch.bmm(y_part, z.gt_(0), out=sums_part)
        ctx.save_for_backward(x, v)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, v = ctx.saved_tensors
        to_y = x.new_empty(len(x), gradient.shape[1], x.shape[1])
        # Maps first: of both layouts this is the faster one for the product that follows
        samples = _samples(x, v)
        room = x.new_empty(samples, len(v), x.shape[1])
        parts = (part.split(samples) for part in (x.transpose(1, 2), gradient, to_y))
        for x_part, gradient_part, to_y_part in zip(*parts, strict=True):
            z = room[: len(x_part)]
            torch.bmm(v.expand(len(z), -1, -1), x_part, out=z)
            torch.bmm(gradient_part, z.gt_(0), out=to_y_part)
        return to_y.transpose(1, 2), None, None


def _samples(x: Tensor, v: Tensor) -> int:
    """Return of how many samples maps are made at a time."""
    return min(len(x), max(1, _PIECE // (len(v) * x.shape[1])))
