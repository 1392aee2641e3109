"""Modules that compute something else for a while: norms and dropouts on dual numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.searches.sedona.dual_norm import dual_batch_norm
from sedona_nni.searches.sedona.dual_operators import dual_dropout

__all__ = ["dual_modules", "normalising_by", "replaced_forwards"]

Forward = Callable[[Tensor], Tensor]


@contextmanager
def dual_modules(
    module: nn.Module, cotangents: Mapping[nn.Module, tuple[Tensor, Tensor]] | None = None
) -> Iterator[None]:
    """Let all batch norms and dropouts within a module handle dual numbers as they should.

    Args:
        module: Running statistics of its norms stay as they are. Norms in evaluation mode are
            left alone.
        cotangents: Of a norm's batch statistics, see `dual_norm.dual_batch_norm`; by default there
            are none.
    """
    to_statistics = cotangents or {}
    forwards: dict[nn.Module, Forward] = {}
    for part in module.modules():
        if isinstance(part, BatchNorm) and part.training:
            to_mean, to_var = to_statistics.get(part, (None, None))
            normalise = partial(_normalise, part, to_mean=to_mean, to_var=to_var)
            forwards[part] = normalising_by(part, normalise)
        elif type(part) is nn.Dropout:
            forwards[part] = partial(
                dual_dropout, p=part.p, training=part.training, inplace=part.inplace
            )
    with replaced_forwards(forwards):
        yield


def _normalise(norm: BatchNorm, features: Tensor, **cotangents: Tensor | None) -> Tensor:
    # Weight and bias are read when they are needed, as they are dual numbers then
    return dual_batch_norm(features, norm.weight, norm.bias, norm.eps, **cotangents)


def normalising_by(norm: BatchNorm, normalise: Forward) -> Forward:
    """Return the forward pass of a batch norm that normalises, scales and shifts by a function.

    What else a norm of a kind of its own does, such as an activation, it does by its own code.
    """
    if type(norm).forward is BatchNorm.forward:
        return normalise

    def forward(features: Tensor) -> Tensor:
        with _NormalisingBy(normalise):
            out: Tensor = type(norm).forward(norm, features)
        return out

    return forward


class _NormalisingBy(TorchFunctionMode):
    """Computes torch's batch norm by a function of the features."""

    def __init__(self, normalise: Forward) -> None:
        super().__init__()
        self._normalise = normalise

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._normalise(args[0] if args else (kwargs or {})["input"])
        return func(*args, **(kwargs or {}))


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let modules compute something else for a while, also within another such while."""
    before = [vars(module).get("forward") for module in forwards]
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, former in zip(forwards, before, strict=True):
            del module.forward
            if former is not None:
                module.forward = former
