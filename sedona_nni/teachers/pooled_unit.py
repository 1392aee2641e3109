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
S' = sum_n x~' [z > 0] and P' = 1/N sum_p (V~_p S'_p + V~'_p S_p).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from sedona_nni.models.batch_norm import track

__all__ = ["pooled_unit"]

_PIECE = 2**18  # numbers of z made at a time: 1 MiB in float32


def pooled_unit(unit: nn.Sequential, features: Tensor) -> Tensor:
    """Return the mean over space of ``unit(features)``, shape (B, G F).

    Args:
        unit: 1x1 convolution of G groups without bias, batch norm, activation.
        features: Shape (B, G p, H, W). May be dual numbers.
    """
    convolution, norm, activation = unit
    groups = cast(nn.Conv2d, convolution).groups
    # Else S outgrows the maps
    wide = features.shape[2] * features.shape[3] >= features.shape[1] // groups
    if not (
        wide
        and unit.training
        and type(activation) is nn.ReLU
        and features.dtype == convolution.weight.dtype  # else in mixed precision
    ):
        # Not .mean(), whose gradient has strides that make the next kernel slow
        return F.avg_pool2d(unit(features), features.shape[2:]).flatten(1)
    norm = cast(nn.BatchNorm2d, norm)
    weights = (cast(Tensor, convolution.weight).flatten(1), norm.weight, norm.bias)
    pixels = features.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, G p)
    of_groups = zip(pixels.chunk(groups, -1), *(w.chunk(groups) for w in weights), strict=True)
    parts = [_pooled(x, w, gamma, beta, norm.eps) for x, w, gamma, beta in of_groups]
    pooled, means, variances = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    track(norm, means, variances, pixels.shape[0] * pixels.shape[1])
    return pooled


def _pooled(
    x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return P, and mean and variance of what the convolution makes of x, (F,), as constants."""
    if forward_ad.unpack_dual(x).tangent is not None:
        value, tangent = forward_ad.unpack_dual(weight)
        # Products with it as it is would make torch load a compiler, see `InnerProblem.moving`
        tangent = torch.zeros_like(value) if tangent is None else tangent
        weight = forward_ad.make_dual(value, tangent)
    mean = x.mean(dim=(0, 1))
    x = x - mean
    count = x.shape[0] * x.shape[1]
    # Of each sample first: some processors' kernels add up a product's terms one after another, and
    # over a whole batch that cost 1e-4 of a variance
    products = torch.bmm(x.transpose(1, 2), x).sum(0)
    # (/ count and + eps would do the same, but forward mode does those by way of Python)
    covariance = torch.ops.aten.mul.Scalar(products, 1 / count)
    variance = ((weight @ covariance) * weight).sum(1)
    means, variances = (
        forward_ad.unpack_dual(part).primal.detach() for part in (weight @ mean, variance)
    )
    deviation = torch.ops.aten.add.Scalar(variance, eps).sqrt()
    scaled = (gamma / deviation)[:, None] * weight
    v = torch.cat([scaled, beta[:, None]], dim=1)
    duals = [forward_ad.unpack_dual(part) for part in (F.pad(x, (0, 1), value=1.0), v)]
    if all(dual.tangent is None for dual in duals):
        pooled: Tensor = _PooledRelu.apply(*(dual.primal for dual in duals))
        return pooled, means, variances
    pooled, tangent = _DualPooledRelu.apply(
        *(dual.primal for dual in duals),
        *(torch.zeros_like(d.primal) if d.tangent is None else d.tangent for d in duals),
    )
    if not any(dual.primal.requires_grad for dual in duals):
        pooled = pooled.detach()  # a function cannot say that of two results one is a constant
    return forward_ad.make_dual(pooled, tangent), means, variances


class _PooledRelu(torch.autograd.Function):
    """(x~, V~) -> P."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor) -> Tensor:
        sums, pooled = x.new_empty(len(x), x.shape[2], len(v)), x.new_empty(len(x), len(v))
        for piece, on in _positive(x, v):
            torch.bmm(x[piece].transpose(1, 2), on, out=sums[piece])
            torch.sum(sums[piece] * v.T, 1, out=pooled[piece])
        ctx.save_for_backward(x, v, sums)
        return pooled.div_(x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor, Tensor]:
        x, v, sums = ctx.saved_tensors
        e = (e / x.shape[1])[:, None]
        to_x, to_v = x.new_empty(len(x), x.shape[2], x.shape[1]), torch.zeros_like(v.T)
        for piece, on in _positive(x, v, maps_first=True):
            torch.bmm(e[piece] * v.T, on, out=to_x[piece])
            to_v += (e[piece] * sums[piece]).sum(0)
        return to_x.transpose(1, 2), to_v.T


class _DualPooledRelu(torch.autograd.Function):
    """(x~, V~, x~', V~') -> (P, P')."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, x_t: Tensor, v_t: Tensor) -> tuple[Tensor, Tensor]:
        q = x.shape[2]
        both, sums = torch.cat([x, x_t], 2), x.new_empty(len(x), 2 * q, len(v))
        pooled, tangent = (x.new_empty(len(x), len(v)) for _ in range(2))
        for piece, on in _positive(x, v):
            torch.bmm(both[piece].transpose(1, 2), on, out=sums[piece])
            s, s_t = sums[piece].split(q, 1)
            torch.sum(s * v.T, 1, out=pooled[piece])
            torch.sum((s_t * v.T).addcmul_(s, v_t.T), 1, out=tangent[piece])
        ctx.save_for_backward(x, v, v_t, sums)
        return pooled.div_(x.shape[1]), tangent.div_(x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor, f: Tensor) -> tuple[Tensor | None, ...]:
        x, v, v_t, sums = ctx.saved_tensors
        q = x.shape[2]
        e, f = ((part / x.shape[1])[:, None] for part in (e, f))
        to_both = x.new_empty(len(x), 2 * q, x.shape[1])
        to_v, to_v_t = torch.zeros_like(v.T), torch.zeros_like(v.T)
        for piece, on in _positive(x, v, maps_first=True):
            e_part, f_part = e[piece], f[piece]
            s, s_t = sums[piece].split(q, 1)
            through_t = f_part * v.T
            through = (e_part * v.T).addcmul_(f_part, v_t.T)
            torch.bmm(torch.cat([through, through_t], 1), on, out=to_both[piece])
            to_v += (e_part * s).addcmul_(f_part, s_t).sum(0)
            to_v_t += (f_part * s).sum(0)
        to_x, to_x_t = to_both.transpose(1, 2).split(q, 2)
        return to_x, to_v.T, to_x_t, to_v_t.T


def _positive(x: Tensor, v: Tensor, *, maps_first: bool = False) -> Iterator[tuple[slice, Tensor]]:
    """Yield [z > 0] sample range by sample range, as numbers; each overwrites the one before.

    Its shape is (b, N, F) or, with ``maps_first``, (b, F, N): whichever is the faster factor in
    the product that follows.
    """
    samples = min(len(x), max(1, _PIECE // (len(v) * x.shape[1])))
    room = x.new_empty(samples * len(v) * x.shape[1])
    for start in range(0, len(x), samples):
        piece = slice(start, min(start + samples, len(x)))
        part = x[piece]
        if maps_first:
            z = room.view(samples, len(v), -1)[: len(part)]
            torch.bmm(v.expand(len(part), -1, -1), part.transpose(1, 2), out=z)
        else:
            z = room.view(samples, -1, len(v))[: len(part)]
            torch.mm(part.flatten(0, 1), v.T, out=z.view(-1, len(v)))
        yield piece, z.gt_(0)
