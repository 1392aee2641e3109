"""The wide end of a light auxiliary network, without its wide feature maps.

A light network ends with a 1x1 convolution to F channels, batch norm, ReLU and the mean over space.
F is 16 to 128 times the width before, so its maps are by far the largest of the whole relaxed
network, and all that remains of them is one number per channel. Here they are made piece by piece,
small enough to stay in the processor's cache, and made again for the backward pass.

Notation (B samples, p channels in, F out, N pixels, all b, n means over samples and pixels):
    x      (B, p, N) features less their mean per channel
    C      (p, p) = mean_bn x x^T
    W      (F, p) convolution;  gamma, beta (F,) weight and bias of the norm
    V      (F, p) = gamma (diag(W C W^T) + eps)^(-1/2) W: batch norm needs only C, not the maps
    z      (B, F, N) = V x + beta
    P      (B, F) = mean_n relu(z), the result

Tangents of x, V, beta and P are x', V', beta' and P' = mean_n [z > 0] (V x' + V' x + beta').
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
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
    wide = features.shape[2] * features.shape[3] >= features.shape[1]
    if not (
        wide
        and unit.training
        and type(activation) is nn.ReLU
        and not torch.is_autocast_enabled(features.device.type)
    ):
        return cast(Tensor, unit(features).mean(dim=(2, 3)))
    norm = cast(nn.BatchNorm2d, norm)
    weight = cast(nn.Conv2d, convolution).weight.flatten(1)
    x = features.flatten(2)
    mean = x.mean(dim=(0, 2))
    x = x - mean[:, None]
    count = x.shape[0] * x.shape[2]
    covariance = torch.bmm(x, x.transpose(1, 2)).sum(0) / count
    variance = ((weight @ covariance) * weight).sum(1)
    _track(norm, weight @ mean, variance, count)
    scaled = (norm.weight * (variance + norm.eps).rsqrt())[:, None] * weight

    parts = [forward_ad.unpack_dual(part) for part in (x, scaled, norm.bias)]
    if all(part.tangent is None for part in parts):
        result: Tensor = _PooledRelu.apply(x, scaled, norm.bias)
        return result
    tangents = [
        torch.zeros_like(part.primal) if part.tangent is None else part.tangent for part in parts
    ]
    return forward_ad.make_dual(*_DualPooledRelu.apply(*(p.primal for p in parts), *tangents))


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


def _pieces(x: Tensor, scaled: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield z sample range by sample range; each overwrites the one before."""
    samples = max(1, _PIECE // (len(scaled) * x.shape[2]))
    room = x.new_empty(min(samples, len(x)), len(scaled), x.shape[2])
    for start in range(0, len(x), samples):
        piece = slice(start, min(start + samples, len(x)))
        part = x[piece]
        z = room[: len(part)]
        torch.baddbmm(bias[:, None], scaled.expand(len(part), -1, -1), part, out=z)
        yield piece, z


class _PooledRelu(torch.autograd.Function):
    """(x, V, beta) -> P."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scaled: Tensor, bias: Tensor) -> Tensor:
        pooled = x.new_empty(len(x), len(scaled))
        for piece, z in _pieces(x, scaled, bias):
            torch.mean(z.relu_(), 2, out=pooled[piece])
        ctx.save_for_backward(x, scaled, bias)
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scaled, bias = ctx.saved_tensors
        e = (e / x.shape[2])[:, :, None]
        to_x, to_scaled, to_bias = map(torch.zeros_like, (x, scaled, bias))
        for piece, z in _pieces(x, scaled, bias):
            on = z.gt_(0)
            torch.bmm((e[piece] * scaled).transpose(1, 2), on, out=to_x[piece])
            to_scaled += (e[piece] * torch.bmm(on, x[piece].transpose(1, 2))).sum(0)
            to_bias += (e[piece, :, 0] * on.sum(2)).sum(0)
        return to_x, to_scaled, to_bias


class _DualPooledRelu(torch.autograd.Function):
    """(x, V, beta, x', V', beta') -> (P, P')."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scaled: Tensor,
        bias: Tensor,
        x_t: Tensor,
        scaled_t: Tensor,
        bias_t: Tensor,
    ) -> tuple[Tensor, Tensor]:
        both = torch.cat([x_t, x], 1)
        weights = torch.cat([scaled, scaled_t], 1)
        pooled, tangent = (x.new_empty(len(x), len(scaled)) for _ in range(2))
        for piece, z in _pieces(x, scaled, bias):
            z_t = torch.baddbmm(bias_t[:, None], weights.expand(len(z), -1, -1), both[piece])
            torch.mean(z_t.mul_(z > 0), 2, out=tangent[piece])
            torch.mean(z.relu_(), 2, out=pooled[piece])
        ctx.save_for_backward(x, scaled, bias, x_t, scaled_t)
        return pooled, tangent

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor, f: Tensor) -> tuple[Tensor | None, ...]:
        x, scaled, bias, x_t, scaled_t = ctx.saved_tensors
        p = x.shape[1]
        e, f = ((part / x.shape[2])[:, :, None] for part in (e, f))
        to_both = torch.empty(len(x), 2 * p, x.shape[2], dtype=x.dtype, device=x.device)
        both = torch.cat([x, x_t], 1)
        to_scaled, to_scaled_t, to_bias = map(torch.zeros_like, (scaled, scaled, bias))
        for piece, z in _pieces(x, scaled, bias):
            on = z.gt_(0)
            ep, fp = e[piece], f[piece]
            through = torch.cat([ep * scaled + fp * scaled_t, fp * scaled], 2)
            torch.bmm(through.transpose(1, 2), on, out=to_both[piece])
            seen, seen_t = torch.bmm(on, both[piece].transpose(1, 2)).split(p, 2)
            to_scaled += (ep * seen + fp * seen_t).sum(0)
            to_scaled_t += (fp * seen).sum(0)
            to_bias += (ep[:, :, 0] * on.sum(2)).sum(0)
        # beta's tangent is a direction that nobody differentiates
        return to_both[:, :p], to_scaled, to_bias, to_both[:, p:], to_scaled_t, None
