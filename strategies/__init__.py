"""Strategies under NNI: SEDONA as a one-shot strategy, and the tuners that nnictl loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sedona_nni.strategies.one_shot import Sedona

__all__ = ["Sedona"]


def __getattr__(name: str) -> Any:
    # Late, because NNI gives the tuners of this package 10 s to start and Lightning takes many
    if name == "Sedona":
        from sedona_nni.strategies.one_shot import Sedona

        return Sedona
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
