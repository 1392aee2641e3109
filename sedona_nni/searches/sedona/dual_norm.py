"""Batch norm on dual numbers, with few kernels forwards and backwards.

Notation (per channel, over the N values of that channel in the batch; m(.) is their mean):
    x, t       values and their tangents
    s          1 / sqrt(var(x) + eps);  z = s (x - m(x)), the normalised values
    P v        v - m(v) - z m(z v), so that dz = s P dx; P is symmetric
    w, b       weight and bias, with tangents w', b'
    y          w z + b, the result;  y' = w s P t + w' z + b', its tangent
    e, f       cotangents of y and y'

s P is what torch's kernel of batch norm's backward pass applies, so y' costs one such kernel. With
q = m(f t) - m(f) m(t) - m(z f) m(z t) the adjoint of (x, t, w, b) -> (y, y') is

    to t:   s w P f
    to x:   s P (w e + (w' - s w m(z t)) f - s w m(z f) t) - s^2 w q z
    to w:   N (m(e z) + s q),   to b:  N m(e)

If the batch's mean and (unbiased) variance are used for something else as well, with cotangents u
and v, then u / N + 2 v z / ((N - 1) s) is added to the cotangent of x.

The terms in f to x come from dz, from d(s P t) = -s^2 (m(z t) P dx + m(z dx) P t + ...), and
from ds = -s^2 m(z dx). The tangents w' and b' are a direction that nobody differentiates.

torch's own forward derivative of batch norm will not do: differentiated again it gave wrong results
(torch 2.14; with it, tests/searches/sedona/test_dual_norm.py fails), and it takes a dozen
elementwise kernels.

Where `sedona_nni.kernels` are compiled, they compute the same in two passes each way, and an
activation that follows as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from sedona_nni.kernels import batch_norm as compiled
from sedona_nni.models.batch_norm import NO_ACTIVATION, normalise

__all__ = ["dual_batch_norm"]


class _Normalise(torch.autograd.Function):
    """(x, t, w, w', b, b') -> (y, y'), see the module's notation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        t: Tensor,
        weight: Tensor,
        weight_t: Tensor,
        bias: Tensor,
        bias_t: Tensor,
        eps: float,
        to_mean: Tensor | None,
        to_var: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        z, s = normalise(x, eps)
        projected, mean_zt, mean_t = _project(t, z, weight * s)
        column = _column(x)
        value = torch.addcmul(bias.view(column), z, weight.view(column))
        projected += bias_t.view(column)
        projected.addcmul_(z, weight_t.view(column))
        ctx.save_for_backward(t, z, s, weight, weight_t, mean_zt, mean_t, to_mean, to_var)
        return value, projected

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor, f: Tensor) -> tuple[Tensor | None, ...]:
        t, z, s, weight, weight_t, mean_zt, mean_t, to_mean, to_var = ctx.saved_tensors
        column, over = _column(z), [d for d in range(z.dim()) if d != 1]
        to_t, mean_zf, mean_f = _project(f, z, weight * s)
        if not any(ctx.needs_input_grad[i] for i in (0, 2, 4)):
            return None, to_t, *[None] * 7
        q = (f * t).mean(over) - mean_f * mean_t - mean_zf * mean_zt
        # Not in place, as e may be torch's symbol for zeros
        along_f = (weight_t - s * weight * mean_zt).view(column)
        inner = torch.addcmul(e * weight.view(column), f, along_f)
        inner.addcmul_(t, (-s * weight * mean_zf).view(column))
        to_x, _, _ = _project(inner, z, s)
        count = z.numel() // z.shape[1]
        along_z = -s * s * weight * q
        if to_var is not None:
            along_z += 2 * to_var / ((count - 1) * s)
        to_x.addcmul_(z, along_z.view(column))
        if to_mean is not None:
            to_x += (to_mean / count).view(column)
        to_weight = (e * z).sum(over) + count * s * q
        return to_x, to_t, to_weight, None, e.sum(over), *[None] * 4


class _Compiled(torch.autograd.Function):
    """(x, t, w, w', b, b') -> (a(y), a'(y) y'), with a the activation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        t: Tensor,
        weight: Tensor,
        weight_t: Tensor,
        bias: Tensor,
        bias_t: Tensor,
        eps: float,
        slope: float,
        to_mean: Tensor | None,
        to_var: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        y, y_t, moments = compiled.normalise(x, t, (weight, weight_t), (bias, bias_t), eps, slope)
        ctx.save_for_backward(x, t, weight, weight_t, bias, moments, to_mean, to_var)
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return y, y_t

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor | None, f: Tensor | None) -> tuple[Tensor | None, ...]:
        x, t, weight, weight_t, bias, moments, to_mean, to_var = ctx.saved_tensors
        to_x, to_t, to_weight, to_bias = compiled.dual_normalise_back(
            e,
            torch.zeros_like(x) if f is None else f,
            x,
            t,
            (weight, weight_t),
            bias,
            ctx.slope,
            moments,
            to_mean,
            to_var,
            only_tangent=not any(ctx.needs_input_grad[i] for i in (0, 2, 4)),
        )
        return to_x, to_t, to_weight, None, to_bias, *[None] * 5


def _column(features: Tensor) -> list[int]:
    return [1, -1, *[1] * (features.dim() - 2)]


def _project(v: Tensor, z: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return factor P v, m(z v) and m(v), all from one kernel.

    It is the backward kernel of a batch norm whose input is already normalised.
    """
    projected, sum_zv, sum_v = torch.ops.aten.native_batch_norm_backward(
        v,
        z,
        factor,
        None,
        None,
        torch.zeros_like(factor),
        torch.ones_like(factor),
        True,
        0.0,
        [True, True, True],
    )
    count = z.numel() // z.shape[1]
    return projected, sum_zv / count, sum_v / count


def dual_batch_norm(
    features: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    to_mean: Tensor | None = None,
    to_var: Tensor | None = None,
    slope: float = NO_ACTIVATION,
) -> Tensor:
    """Return what a batch norm in training mode makes of dual numbers, by the formulas above.

    Args:
        features: Shape (B, channels, ...).
        weight: w, shape (channels,); none is 1.
        bias: b, likewise; none is 0.
        eps: Added to the variance.
        to_mean: Cotangent u of the batch's mean, shape (channels,), by default none.
        to_var: Cotangent v of the batch's unbiased variance, likewise.
        slope: Of the leaky ReLU that follows, below zero; 0 is a ReLU, 1 none.
    """
    channels = features.shape[1]
    x, w, b = (
        (dual.primal, torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent)
        for dual in map(
            forward_ad.unpack_dual,
            (
                features,
                features.new_ones(channels) if weight is None else weight,
                features.new_zeros(channels) if bias is None else bias,
            ),
        )
    )
    in_c = compiled.fits(x[0], w[0])
    if in_c:
        value, tangent = _Compiled.apply(*x, *w, *b, eps, slope, to_mean, to_var)
    else:
        value, tangent = _Normalise.apply(*x, *w, *b, eps, to_mean, to_var)
    if not (x[0].requires_grad or w[0].requires_grad or b[0].requires_grad):
        value = value.detach()  # a function cannot say that of two results one is a constant
    out = forward_ad.make_dual(value, tangent)
    if in_c or slope == NO_ACTIVATION:
        return out
    return F.leaky_relu(out, slope)
