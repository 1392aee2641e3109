"""Where a backbone is cut, and with which auxiliary networks: the object of the search.

Notation (L layers, K blocks): boundary i is the place after layer i, 0 <= i <= L-2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from sedona_nni.errors import InputError
from sedona_nni.files import Document
from sedona_nni.teachers import NO_AUXILIARY, CutKind, cut_kind

__all__ = [
    "Decoupling",
    "check_num_blocks",
    "every_decoupling",
    "random_decoupling",
    "uniform_cuts",
]


def check_num_blocks(num_blocks: int, num_layers: int) -> None:
    """Check that ``num_layers`` layers can be cut into ``num_blocks`` blocks.

    Raises:
        InputError: unless 1 <= num_blocks <= num_layers.
    """
    if not 1 <= num_blocks <= num_layers:
        raise InputError.rule(
            "num_blocks", f"must be from 1 to the number of layers, {num_layers}", num_blocks
        )


def uniform_cuts(num_layers: int, num_blocks: int) -> list[int]:
    """Cut L layers into K runs of about equal length, as the published baselines do.

    The cuts are trunc(linspace(-1, L-1, K+1)) without both ends, so the runs differ by rounding.

    Raises:
        InputError: unless 1 <= num_blocks <= num_layers.
    """
    check_num_blocks(num_blocks, num_layers)
    ends = np.linspace(-1, num_layers - 1, num_blocks + 1)
    return [int(cut) for cut in ends[1:-1]]


class Decoupling(Document):
    """The cuts of a backbone and the auxiliary network at each: K-1 of both for K blocks.

    A cut of a further kind has it behind the name of its auxiliary network, as in ``conv1+image``,
    see `sedona_nni.decouplings.cut_kinds`.

    ``cuts=[]`` is plain back-propagation. Two decouplings are equal when they train the same
    network, whatever their provenance.

    Examples:
        >>> from pathlib import Path
        >>> from sedona_nni import Decoupling
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv2", "conv1"])
        >>> decoupling.num_blocks, decoupling.blocks(num_layers=8)
        (3, [range(0, 3), range(3, 5), range(5, 8)])
        >>> decoupling.save(Path("decoupling.json"))
        >>> Decoupling.load(Path("decoupling.json")) == decoupling
        True
    """

    format: Literal["sedona-nni/decoupling/1"] = "sedona-nni/decoupling/1"
    backbone: str
    cuts: list[int] = Field(default_factory=list)
    aux: list[str] = Field(default_factory=list)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.aux) != len(self.cuts):
            raise ValueError(
                f"aux must name one auxiliary network per cut ({len(self.cuts)} cuts), "
                f"but got {self.aux!r}"
            )
        rising = all(a < b for a, b in zip(self.cuts, self.cuts[1:], strict=False))
        if not rising or any(cut < 0 for cut in self.cuts):
            raise ValueError(
                f"cuts must be strictly increasing boundaries from 0, but got {self.cuts!r}"
            )
        return self

    @property
    def num_blocks(self) -> int:
        """K, the number of gradient-isolated blocks."""
        return len(self.cuts) + 1

    @property
    def kinds(self) -> list[CutKind | None]:
        """The kind of each cut, None of a plain one."""
        return [cut_kind(name) for name in self.aux]

    @property
    def key(self) -> str:
        """A text that is the same for equal decouplings and differs for different ones."""
        return self.backbone + "".join(
            f" {cut}:{name}" for cut, name in zip(self.cuts, self.aux, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decoupling) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def blocks(self, num_layers: int) -> list[range]:
        """Return the layers of each block of a backbone with ``num_layers`` layers.

        Raises:
            InputError: if a cut is not a boundary of such a backbone (0 to L-2).
        """
        if self.cuts and self.cuts[-1] > num_layers - 2:
            raise InputError.rule(
                "cuts",
                f"must be boundaries of {self.backbone}, 0 to {num_layers - 2}",
                self.cuts,
            )
        ends = [*(cut + 1 for cut in self.cuts), num_layers]
        return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def in_words(self) -> str:
        """Return for instance ``"cut after layer 4 (conv2) and 6 (conv1)"``, or ``"... and 6"``
        where there is no auxiliary network."""
        if not self.cuts:
            return "no cut: back-propagation"
        places = [
            str(cut) if name == NO_AUXILIARY else f"{cut} ({name})"
            for cut, name in zip(self.cuts, self.aux, strict=True)
        ]
        listed = " and ".join([", ".join(places[:-1]), places[-1]] if places[1:] else places)
        return f"cut after layer {listed}"


def random_decoupling(
    backbone: str, num_layers: int, num_blocks: int, aux_choices: Sequence[str], seed: int
) -> Decoupling:
    """Draw K-1 of the L-1 boundaries, and an auxiliary network for each, all equally likely.

    Raises:
        InputError: unless 1 <= num_blocks <= num_layers.

    Examples:
        >>> from sedona_nni import random_decoupling
        >>> drawn = random_decoupling("vgg11", 8, 3, ["conv1", "conv2"], seed=0)
        >>> drawn.num_blocks, drawn.provenance
        (3, {'seed': 0})
    """
    check_num_blocks(num_blocks, num_layers)
    rng = np.random.default_rng(seed)
    cuts = sorted(int(cut) for cut in rng.choice(num_layers - 1, num_blocks - 1, replace=False))
    aux = [aux_choices[int(rng.integers(len(aux_choices)))] for _ in cuts]
    return Decoupling(backbone=backbone, cuts=cuts, aux=aux, provenance={"seed": seed})


def every_decoupling(
    backbone: str, num_layers: int, num_blocks: int, aux: Sequence[str]
) -> list[Decoupling]:
    """Return all (L-1 over K-1) C^(K-1) decouplings, by cuts and then by auxiliary networks.

    Args:
        backbone: Its name.
        num_layers: L.
        num_blocks: K, from 1 to L.
        aux: The C auxiliary networks to choose from.
    """
    return [
        Decoupling(backbone=backbone, cuts=list(cuts), aux=list(names))
        for cuts in itertools.combinations(range(num_layers - 1), num_blocks - 1)
        for names in itertools.product(aux, repeat=num_blocks - 1)
    ]
