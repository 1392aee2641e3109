"""Batch norm on dual numbers, as few kernels forwards and backwards.

Notation (per channel, over the N values of that channel in the batch; m(.) is their mean):
    x, t       values and their tangents
    s          1 / sqrt(var(x) + eps);  z = s (x - m(x)), the normalised values
    P v        v - m(v) - z m(z v), so that dz = s P dx; P is symmetric
    u          s P t, the tangent of z
    c, d       cotangents of z and u

torch's own forward derivative of batch norm takes the batch statistics for constants when it is
differentiated again, which makes second derivatives wrong, and is made of a dozen elementwise
kernels. But s P is what batch norm's backward kernel applies, and the adjoint of (x, t) -> (z, u) is

    to t:   s P d
    to x:   s P (c - s m(z t) d - s m(z d) t) - s^2 q z,   q = m(d t) - m(d) m(t) - m(z d) m(z t)

(the terms in d come from dz and ds = -s^2 m(z dx) inside u).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

__all__ = ["DualBatchNorm"]


def _project(v: Tensor, x: Tensor, mean: Tensor, s: Tensor, eps: float) -> Tensor:
    """Return s P v."""
    result: Tensor = torch.ops.aten.native_batch_norm_backward(
        v, x, None, None, None, mean, s, True, eps, [True, False, False]
    )[0]
    return result


class _Normalise(torch.autograd.Function):
    """(x, t) -> (z, u), see the module's notation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        z, mean, s = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, t, z, mean, s)
        ctx.eps = eps
        return z, _project(t, x, mean, s, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, None]:
        x, t, z, mean, s = ctx.saved_tensors
        over = [dim for dim in range(x.dim()) if dim != 1]
        column = [1, -1, *[1] * (x.dim() - 2)]

        def m(values: Tensor) -> Tensor:
            return values.mean(over)

        zd, zt = m(z * d), m(z * t)
        q = m(d * t) - m(d) * m(t) - zd * zt
        inner = c - (s * zt).view(column) * d - (s * zd).view(column) * t
        to_x = _project(inner, x, mean, s, ctx.eps) - (s * s * q).view(column) * z
        return to_x, _project(d, x, mean, s, ctx.eps), None


class DualBatchNorm(TorchFunctionMode):
    """Inside, batch norms in training mode handle dual numbers by the formulas above."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func is not F.batch_norm or not named["training"]:
            return func(*args, **named)
        x, t = forward_ad.unpack_dual(args[0])
        weight, weight_t = forward_ad.unpack_dual(named["weight"])
        bias, bias_t = forward_ad.unpack_dual(named["bias"])
        column = [1, -1, *[1] * (x.dim() - 2)]
        z, u = _Normalise.apply(x, torch.zeros_like(x) if t is None else t, named["eps"])
        value = torch.addcmul(bias.view(column), z, weight.view(column))
        tangent = u * weight.view(column)
        if weight_t is not None:
            tangent = tangent + torch.addcmul(bias_t.view(column), z, weight_t.view(column))
        return forward_ad.make_dual(value, tangent)
