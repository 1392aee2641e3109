"""Operators on dual numbers whose forward derivative torch lacks, or gets wrong.

A pull-back runs a layer once with dual numbers (value, tangent) and then goes backwards, so each
operator's tangent has to be a differentiable function of values and tangents. Mostly torch's is.
Where it is not (torch 2.14), `DualOperators` computes the operator by a formula of this module:

    softmax        y = softmax(x),  y' = y (t - sum(y t))           torch writes over its tangent
    log_softmax    y' = t - sum(softmax(x) t),  logsumexp  y' = sum(softmax(x) t)        likewise
    attention      softmax(q k^T / sqrt(d) + mask) v          no forward derivative where fused
    norms          see `dual_norm`, `dual_layer_norm`         torch reads 1 / sigma as a constant
    dropout        mask times value, the same mask times tangent                  only for memory
    glu            x_1 sigmoid(x_2)                                          no second derivative
    hardsigmoid    clamp(x + 3, 0, 6) / 6                                    no second derivative
    weight norm    v g / |v|                no forward derivative, and a wrong second one backwards
    normalize      x / sqrt(max(|x|^2, eps^2))                         no second derivative at x = 0

What an operator of Python's calls inside is not seen, so multi-head attention has a formula, too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sedona_nni.searches.sedona.dual_layer_norm import dual_layer_norm
from sedona_nni.searches.sedona.dual_norm import dual_batch_norm

__all__ = ["DualOperators", "dual_dropout"]


class DualOperators(TorchFunctionMode):
    """While it is on, in this thread, the operators above are computed by the formulas above.

    Without dual numbers only the last three are, and attention with dropout, so that a training
    step and its pull-back draw the same masks; the others are torch's.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute an operator, see `torch.overrides.TorchFunctionMode`."""
        formula = _FORMULAS.get(func)
        if formula is None:
            return func(*args, **(kwargs or {}))
        return formula(func, *args, **(kwargs or {}))


def _is_dual(*tensors: Tensor | None) -> bool:
    return any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
    )


def dual_dropout(features: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
    """Drop the same values as `torch.nn.functional.dropout`, and their tangents.

    torch's own forward derivative is as right, but goes by way of Python and loads a compiler.
    """
    value, tangent = forward_ad.unpack_dual(features)
    # In place as there: a GPU has a kernel of its own for that, which draws other masks
    kept = F.dropout(torch.ones_like(value), p, training, inplace)
    return value * kept if tangent is None else forward_ad.make_dual(value * kept, tangent * kept)


def _dropout(
    function: Callable[..., Tensor],
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    if not _is_dual(input):
        return function(input, p, training, inplace)
    return dual_dropout(input, p, training, inplace)


def _softmax(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    y, t, dim = _value_tangent_dim(function, *args, **kwargs)
    return y if t is None else forward_ad.make_dual(y, y * (t - (y * t).sum(dim, keepdim=True)))


def _log_softmax(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    y, t, dim = _value_tangent_dim(function, *args, **kwargs)
    return y if t is None else forward_ad.make_dual(y, t - (y.exp() * t).sum(dim, keepdim=True))


def _value_tangent_dim(
    function: Callable[..., Tensor],
    input: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None, int]:
    """Return the function's value, the tangent of what it is given, and its dimension."""
    value, tangent = forward_ad.unpack_dual(input)
    return function(value, *args, **kwargs), tangent, args[0] if args else kwargs["dim"]


def _logsumexp(
    function: Callable[..., Tensor],
    input: Tensor,
    dim: int | Sequence[int],
    keepdim: bool = False,
) -> Tensor:
    x, t = forward_ad.unpack_dual(input)
    if t is None:
        return function(x, dim, keepdim)
    over = function(x, dim, keepdim=True)
    return forward_ad.make_dual(function(x, dim, keepdim), ((x - over).exp() * t).sum(dim, keepdim))


def _attention(
    function: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if not dropout_p and not _is_dual(query, key, value, attn_mask):
        how = {"scale": scale, "enable_gqa": enable_gqa}
        return function(query, key, value, attn_mask, dropout_p, is_causal, **how)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, -3) for each in (key, value))
    if is_causal:
        attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    return _attention_weights(query, key, attn_mask, dropout_p, scale) @ value


def _attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, p: float, scale: float | None = None
) -> Tensor:
    """Return softmax(q k^T scale + mask), some dropped; what a mask of truth values is False for
    has no weight."""
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return _dropout(F.dropout, _softmax(torch.softmax, scores, -1), p)


def _multi_head_attention(
    function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    given = _MULTI_HEAD_ATTENTION.bind(*args, **kwargs)
    given.apply_defaults()
    of = SimpleNamespace(**given.arguments)
    p = of.dropout_p if of.training else 0.0
    projections = (of.in_proj_weight, of.in_proj_bias, of.out_proj_weight, of.out_proj_bias)
    if not p and not _is_dual(of.query, of.key, of.value, *projections):
        out, weights = function(*args, **kwargs)
        return out, weights
    for name in ("bias_k", "add_zero_attn", "key_padding_mask", "use_separate_proj_weight"):
        if given.arguments[name] is not None and given.arguments[name] is not False:
            raise NotImplementedError(f"multi_head_attention_forward has no formula for {name}")
    biases = (None,) * 3 if of.in_proj_bias is None else of.in_proj_bias.chunk(3)
    query, key, value = (
        # (tokens, batch, heads of d) -> (batch, heads, tokens, d)
        F.linear(each, weight, bias).unflatten(-1, (of.num_heads, -1)).permute(1, 2, 0, 3)
        for each, weight, bias in zip(
            (of.query, of.key, of.value), of.in_proj_weight.chunk(3), biases, strict=True
        )
    )
    mask = of.attn_mask
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # True is what is left out, here
    if mask is not None and mask.dim() == 3:
        mask = mask.view(query.shape[0], -1, *mask.shape[1:])
    weights = _attention_weights(query, key, mask, p)
    mixed = (weights @ value).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(mixed, of.out_proj_weight, of.out_proj_bias)
    if not of.need_weights:
        return out, None
    return out, weights.mean(1) if of.average_attn_weights else weights


_MULTI_HEAD_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def _layer_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *rest: Any,
    **more: Any,
) -> Tensor:
    if not _is_dual(input, weight, bias):
        return function(input, normalized_shape, weight, bias, eps, *rest, **more)
    return dual_layer_norm(input, normalized_shape, weight, bias, eps)


def _instance_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats or not _is_dual(input, weight, bias):
        statistics = (running_mean, running_var)
        return function(input, *statistics, weight, bias, use_input_stats, momentum, eps)
    out = dual_layer_norm(input, input.shape[2:], None, None, eps)
    column = (-1, *[1] * (input.dim() - 2))
    if weight is not None:
        out = out * weight.view(column)
    return out if bias is None else out + bias.view(column)


def _batch_norm(
    function: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or not _is_dual(input, weight, bias):
        return function(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return dual_batch_norm(input, weight, bias, eps)


def _normalize(
    function: Callable[..., Tensor],
    input: Tensor,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:
    if p != 2 or out is not None:
        return function(input, p, dim, eps, out)
    return input / input.square().sum(dim, keepdim=True).clamp_min(eps * eps).sqrt()


def _glu(function: Callable[..., Tensor], input: Tensor, dim: int = -1) -> Tensor:
    if not _is_dual(input):
        return function(input, dim)
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _hardsigmoid(
    function: Callable[..., Tensor],
    input: Tensor,
    inplace: bool = False,
) -> Tensor:
    return F.hardtanh(input + 3, 0.0, 6.0) / 6


def _weight_norm(function: Callable[..., Tensor], v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [each for each in range(v.dim()) if each != dim]  # -1: all of them
    return v * (g / v.square().sum(over, keepdim=True).sqrt())


_FORMULAS: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys([F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax], _softmax),
    **dict.fromkeys(
        [F.log_softmax, torch.log_softmax, torch.special.log_softmax, Tensor.log_softmax],
        _log_softmax,
    ),
    **dict.fromkeys([torch.logsumexp, torch.special.logsumexp, Tensor.logsumexp], _logsumexp),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    **dict.fromkeys([F.layer_norm, torch.layer_norm], _layer_norm),
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.normalize: _normalize,
    F.glu: _glu,
    F.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,
}
