"""Modules that compute something else for a while: norms and dropouts on dual numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from sedona_nni.models.batch_norm import NO_ACTIVATION, BatchNorm
from sedona_nni.searches.sedona.dual_norm import dual_batch_norm
from sedona_nni.searches.sedona.dual_operators import dual_dropout
from sedona_nni.searches.sedona.normalising import normalising, replaced_forwards

__all__ = ["dual_modules"]


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

    def normalise(norm: BatchNorm, features: Tensor, slope: float = NO_ACTIVATION) -> Tensor:
        to_mean, to_var = to_statistics.get(norm, (None, None))
        # Weight and bias are read when they are needed, as they are dual numbers then
        return dual_batch_norm(features, norm.weight, norm.bias, norm.eps, to_mean, to_var, slope)

    parts = list(module.modules())
    norms = [part for part in parts if isinstance(part, BatchNorm) and part.training]
    forwards = normalising(module, norms, normalise)
    for part in parts:
        if type(part) is nn.Dropout:
            forwards[part] = partial(
                dual_dropout, p=part.p, training=part.training, inplace=part.inplace
            )
    with replaced_forwards(forwards):
        yield
