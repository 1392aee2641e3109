"""Batch norm with the activation that follows it, on plain and on dual numbers, by kernels in C.

The formulas are in ``batch_norm.h`` beside this file. Here is what makes tensors into addresses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import c_double, c_size_t, c_void_p

import torch
from torch import Tensor

from sedona_nni.kernels import kernels

__all__ = ["dual_normalise_back", "fits", "kernel", "normalise", "normalise_back"]

_TYPES = {torch.float32: "float", torch.float64: "double"}

# What each takes: p an address or none, d a double, z a size
_SIGNATURES = {
    "normalise": "pppppp dd zzz ppppp d",
    "normalise_back": "pppp d zzz pppp",
    "dual_normalise_back": "ppppppp d zzz ppppppp",
}
_SHARE = 2**15  # numbers for which another thread pays, as torch has it

_KINDS = {"p": c_void_p, "d": c_double, "z": c_size_t}


def fits(features: Tensor, weight: Tensor | None) -> bool:
    """Return whether there are kernels for features, (B, channels, ...), and such a weight."""
    return (
        features.device.type == "cpu"
        and features.dtype in _TYPES
        and (weight is None or weight.dtype == features.dtype)
        and features.numel() > features.shape[1] > 0
        and features.movedim(1, -1).is_contiguous()
        and kernels().library is not None
    )


def normalise(
    x: Tensor,
    t: Tensor | None,
    weight: tuple[Tensor, Tensor | None],
    bias: tuple[Tensor, Tensor | None],
    eps: float,
    slope: float,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return values, tangents and the moments that the ways back need, (4, channels).

    Args:
        x: Features, (B, channels, ...), in ``channels_last``.
        t: Their tangents, likewise; none for plain numbers.
        weight: With its tangent, which is there if those of the features are.
        bias: Likewise.
        eps: Added to the variance.
        slope: Of the activation below zero; 1 is none.
        running: Running mean and variance, which move.
        momentum: How far.
    """
    channels = x.shape[1]
    y = torch.empty_like(x)
    y_t = None if t is None else torch.empty_like(x)
    moments = torch.empty(4, channels, dtype=torch.float64)
    means, variances = running or (None, None)
    w, w_t, b, b_t = (_row(part) for part in (*weight, *bias))
    t = None if t is None else _laid_out(t, x)
    kernel("normalise", x.dtype)(
        *(_at(x), _at(t), _at(w), _at(w_t), _at(b), _at(b_t)),
        *(eps, slope, x.numel() // channels, channels, _shares(x)),
        *(_at(y), _at(y_t), _at(moments), _at(means), _at(variances), momentum),
    )
    return y, y_t, moments


def normalise_back(
    e: Tensor, x: Tensor, weight: Tensor, bias: Tensor, slope: float, moments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents of features, weight and bias, for ``e``, that of plain values."""
    channels = x.shape[1]
    to_x, to_w, to_b = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    e, w, b = _laid_out(e, x), _row(weight), _row(bias)
    kernel("normalise_back", x.dtype)(
        *(_at(e), _at(x), _at(w), _at(b)),
        *(slope, x.numel() // channels, channels, _shares(x)),
        *(_at(moments), _at(to_x), _at(to_w), _at(to_b)),
    )
    return to_x, to_w, to_b


def dual_normalise_back(
    e: Tensor | None,
    f: Tensor,
    x: Tensor,
    t: Tensor,
    weight: tuple[Tensor, Tensor],
    bias: Tensor,
    slope: float,
    moments: Tensor,
    to_mean: Tensor | None,
    to_var: Tensor | None,
    *,
    only_tangent: bool,
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Return the cotangents of features, their tangents, weight and bias.

    Args:
        e: The cotangent of the values; none is 0.
        f: That of the tangents.
        x: As `normalise` had it.
        t: Likewise.
        weight: Likewise.
        bias: Likewise, without its tangent.
        slope: Likewise.
        moments: What `normalise` returned.
        to_mean: Cotangent of the batch's mean, (channels,); none is 0.
        to_var: That of its unbiased variance, likewise.
        only_tangent: Whether only that of the tangents is wanted; the others are none then.
    """
    channels = x.shape[1]
    to_t = torch.empty_like(x)
    to_x, to_w, to_b = (
        None if only_tangent else torch.empty_like(part) for part in (x, weight[0], bias)
    )
    e = None if e is None else _laid_out(e, x)
    f, t = _laid_out(f, x), _laid_out(t, x)
    w, w_t, b, u, v = (_row(part) for part in (*weight, bias, to_mean, to_var))
    kernel("dual_normalise_back", x.dtype)(
        *(_at(e), _at(f), _at(x), _at(t), _at(w), _at(w_t), _at(b)),
        *(slope, x.numel() // channels, channels, _shares(x)),
        *(_at(moments), _at(u), _at(v), _at(to_x), _at(to_t), _at(to_w), _at(to_b)),
    )
    return to_x, to_t, to_w, to_b


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Return a kernel, which takes what its signature says."""
    function = getattr(kernels().library, f"{name}_{_TYPES[dtype]}")
    function.argtypes = [_KINDS[kind] for kind in _SIGNATURES[name].replace(" ", "")]
    function.errcheck = _check
    return function


def _check(result: int, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    if result:
        raise MemoryError(f"{function.__name__} has no memory for sums")


def _shares(x: Tensor) -> int:
    """Return among how many threads to divide the work."""
    if not kernels().threads:
        return 1
    return max(1, min(torch.get_num_threads(), x.numel() // _SHARE))


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _laid_out(features: Tensor, like: Tensor) -> Tensor:
    if features.stride() == like.stride():
        return features
    return torch.empty_like(like).copy_(features)


def _row(row: Tensor | None) -> Tensor | None:
    return None if row is None else row.contiguous()
