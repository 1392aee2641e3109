"""What teaches a block: auxiliary networks and losses; and how a cut is named.

A cut is named by its auxiliary network. A plain cut gives the block above nothing but features.
One of a further kind has its name behind a plus, as in ``conv1+image``, see
`sedona_nni.decouplings.cut_kinds`; ``man+++overlap`` is one of ``man++``.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["CUT_KINDS", "NO_AUXILIARY", "CutKind", "cut_kind", "network_at"]

NO_AUXILIARY = "none"
"""In place of an auxiliary network's name: the block below the cut has no classifier. Only methods
that teach blocks otherwise can train it, see `sedona_nni.training.methods`."""

CutKind = Literal["image", "previous", "overlap"]

CUT_KINDS: tuple[CutKind, ...] = get_args(CutKind)
"""The further kinds of cuts."""


def cut_kind(name: str) -> CutKind | None:
    """Return the kind of a cut of this name, None of a plain one.

    Examples:
        >>> from sedona_nni.teachers import cut_kind
        >>> cut_kind("conv1+image"), cut_kind("man++")
        ('image', None)
    """
    return next((kind for kind in CUT_KINDS if name == f"{network_at(name)}+{kind}"), None)


def network_at(name: str) -> str:
    """Return the auxiliary network at a cut of this name.

    Examples:
        >>> from sedona_nni.teachers import network_at
        >>> network_at("conv1+image"), network_at("man++"), network_at("man+++overlap")
        ('conv1', 'man++', 'man++')
    """
    network, _, end = name.rpartition("+")
    return network if network and end in CUT_KINDS else name
