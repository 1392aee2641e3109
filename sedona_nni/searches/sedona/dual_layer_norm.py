"""Layer norm on dual numbers, with few kernels forwards and backwards.

Notation (per row of N values that are normalised together; m(.) is their mean), as in `dual_norm`:
    x, t       values and their tangents
    s          1 / sqrt(var(x) + eps);  z = s (x - m(x)), the normalised values
    P v        v - m(v) - z m(z v), so that dz = s P dx; P is symmetric
    z' = s P t, the tangent of z
    e, f       cotangents of z and z'

With q = m(f t) - m(f) m(t) - m(z f) m(z t) the adjoint of (x, t) -> (z, z') is

    to t:   s P f
    to x:   s P (e - s m(z t) f - s m(z f) t) - s^2 q z

Weight and bias belong to the values of a row, not to the row, and follow in ordinary operators.

torch's own forward derivative reads s as a constant where it is differentiated again, and is then
wrong by half (torch 2.14; with it, tests/searches/sedona/test_dual_operators.py fails).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["dual_layer_norm"]


class _Standardise(torch.autograd.Function):
    """(x, t) -> (z, z') of rows (M, N), see the module's notation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        z, _, s = torch.native_layer_norm(x, x.shape[1:], None, None, eps)
        ctx.save_for_backward(t, z, s)
        return z, _project(t, z) * s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor, f: Tensor) -> tuple[Tensor, Tensor, None]:
        t, z, s = ctx.saved_tensors
        mean_zt, mean_zf = _mean(z * t), _mean(z * f)
        q = _mean(f * t) - _mean(f) * _mean(t) - mean_zf * mean_zt
        inner = e - (s * mean_zt) * f - (s * mean_zf) * t
        to_x = s * _project(inner, z) - (s * s * q) * z
        return to_x, s * _project(f, z), None


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(1, keepdim=True)


def _project(v: Tensor, z: Tensor) -> Tensor:
    """Return P v from one kernel, that of the backward pass of a layer norm of normalised rows."""
    ones = v.new_ones(len(v), 1)
    projected: Tensor = torch.ops.aten.native_layer_norm_backward(
        v, z, z.shape[1:], torch.zeros_like(ones), ones, None, None, [True, False, False]
    )[0]
    return projected


def dual_layer_norm(
    features: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Return what a layer norm makes of dual numbers, by the formulas above.

    Args:
        features: Shape (..., *shape).
        shape: Of what is normalised together.
        weight: Of this shape; none is 1.
        bias: Likewise; none is 0.
        eps: Added to the variance.
    """
    value, tangent = forward_ad.unpack_dual(features)
    if tangent is None:
        tangent = torch.zeros_like(value)
    x, t = (part.reshape(-1, math.prod(shape)) for part in (value, tangent))
    z, z_tangent = _Standardise.apply(x, t, eps)
    if not value.requires_grad:
        z = z.detach()  # a function cannot say that of two results one is a constant
    out = forward_ad.make_dual(z.view(value.shape), z_tangent.view(value.shape))
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias
