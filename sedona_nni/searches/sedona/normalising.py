"""Batch norms, with the activation that follows, computed by another function for a while."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.models.hooks import has_hooks

__all__ = [
    "Forward",
    "normalising",
    "normalising_by",
    "replaced_forwards",
]

Forward = Callable[[Tensor], Tensor]


def normalising(
    module: nn.Module, norms: Iterable[BatchNorm], normalise: Callable[..., Tensor]
) -> dict[nn.Module, Forward]:
    """Return forward passes in which norms normalise by a function.

    Args:
        module: What holds the norms; where a norm and its activation follow each other in a
            `Sequential` of it, the function computes both.
        norms: The norms.
        normalise: (norm, features, slope=1) -> features, as `models.batch_norm.batch_norm`.
    """
    chosen = dict.fromkeys(norms)
    forwards: dict[nn.Module, Forward] = {
        norm: normalising_by(norm, partial(normalise, norm)) for norm in chosen
    }
    for part in module.modules():
        if type(part) is nn.Sequential:
            steps = _steps(part, chosen, normalise)
            if len(steps) < len(part):
                forwards[part] = partial(_one_after_another, steps)
    return forwards


def _steps(
    sequence: nn.Sequential, norms: Container[nn.Module], normalise: Callable[..., Tensor]
) -> list[Forward]:
    """Return what a sequence computes, with norm and activation as one step."""
    steps: list[Forward] = []
    for before, module in pairwise([None, *sequence]):
        slope = _slope(module)
        norm_before = before in norms and type(before).forward is BatchNorm.forward
        if slope is not None and norm_before and not (has_hooks(before) or has_hooks(module)):
            steps[-1] = partial(normalise, before, slope=slope)
        else:
            steps.append(module)
    return steps


def _slope(activation: nn.Module) -> float | None:
    """Return the slope of an activation below zero; none if that does not describe it."""
    if type(activation) is nn.ReLU:
        return 0.0
    return activation.negative_slope if type(activation) is nn.LeakyReLU else None


def _one_after_another(steps: Sequence[Forward], features: Tensor) -> Tensor:
    for step in steps:
        features = step(features)
    return features


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
