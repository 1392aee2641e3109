"""Where a backbone is cut, and with which auxiliary networks: the object of the search.

Notation (L layers, K blocks, C auxiliary choices):
    boundary i   the place after layer i, 0 <= i <= L-2
    alpha        (L-1, 2) logits; softmax(alpha_i) = (a_i^loc, a_i^up)
    beta         (L-1, C) logits; softmax(beta_i) weighs the auxiliary choices at boundary i
Source: Pyeon et al., "SEDONA: Search for Decoupled Neural Networks toward Greedy Block-wise
Learning", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from sedona_nni.errors import InputError
from sedona_nni.files import Document, read_json

__all__ = [
    "NO_AUXILIARY",
    "Decoupling",
    "SearchResult",
    "check_num_blocks",
    "load_decoupling",
    "load_document",
    "random_decoupling",
    "uniform_cuts",
]

NO_AUXILIARY = "none"
"""In place of an auxiliary network's name: the block below the cut has no classifier. Only methods
that teach blocks otherwise can train it, see `sedona_nni.methods`."""


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

    ``cuts=[]`` is plain back-propagation. Two decouplings are equal when they train the same
    network, whatever their provenance.
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
    """
    check_num_blocks(num_blocks, num_layers)
    rng = np.random.default_rng(seed)
    cuts = sorted(int(cut) for cut in rng.choice(num_layers - 1, num_blocks - 1, replace=False))
    aux = [aux_choices[int(rng.integers(len(aux_choices)))] for _ in cuts]
    return Decoupling(backbone=backbone, cuts=cuts, aux=aux, provenance={"seed": seed})


class SearchResult(Document):
    """The relaxation that a search ended with; every K can be derived from it."""

    format: Literal["sedona-nni/search-result/1"] = "sedona-nni/search-result/1"
    backbone: str
    dataset: str
    aux_choices: list[str] = Field(min_length=1)
    alpha: list[tuple[float, float]]
    beta: list[list[float]]
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.alpha) != len(self.beta):
            raise ValueError(
                "alpha and beta must have one row per boundary, "
                f"but got {len(self.alpha)} and {len(self.beta)} rows"
            )
        widths = {len(row) for row in self.beta}
        if widths - {len(self.aux_choices)}:
            raise ValueError(
                f"beta rows must have {len(self.aux_choices)} entries, one per auxiliary choice, "
                f"but got {sorted(widths)}"
            )
        if not np.isfinite(np.array(self.alpha)).all() or not np.isfinite(self.beta).all():
            raise ValueError("alpha and beta must be finite numbers, but got inf or nan")
        return self

    @property
    def num_layers(self) -> int:
        """L, the number of layers of the backbone."""
        return len(self.alpha) + 1

    def margins(self) -> np.ndarray:
        """Return alpha_i^loc - alpha_i^up = log(a_i^loc / a_i^up), shape (L-1,), float64."""
        alpha = np.array(self.alpha, dtype=np.float64).reshape(-1, 2)
        return np.asarray(alpha[:, 0] - alpha[:, 1])

    def a_loc(self) -> np.ndarray:
        """Return a^loc = softmax(alpha)[:, 0], shape (L-1,), float64: how much each boundary
        prefers its local loss, i.e. a cut."""
        return np.asarray(np.exp(-np.logaddexp(0, -self.margins())))  # never overflows

    @property
    def undecided_share(self) -> float:
        """Share of the boundaries whose a^loc is within 0.01 of 0.5, where all of them start."""
        return float(np.mean(np.abs(self.a_loc() - 0.5) < 0.01)) if self.alpha else 0.0

    def preferred_aux(self, boundary: int) -> str:
        """Return the auxiliary network with the largest beta; of equals the first."""
        return self.aux_choices[int(np.argmax(self.beta[boundary]))]

    def decoupling(self, num_blocks: int) -> Decoupling:
        """Discretise: cut at the K-1 boundaries with the largest a^loc.

        K = 0 leaves their number to the search: cut wherever a_i^loc > a_i^up. At each cut the
        auxiliary network with the largest beta is kept. Ties go to the lower boundary and to the
        earlier auxiliary choice.
        Compared are the logit differences alpha_i^loc - alpha_i^up, in float64: they order the
        boundaries as a^loc does, but also where a^loc itself rounds to equal numbers, as near 0.5
        it does in float32 (boundaries 27 and 28 of the published ResNet-152 result).

        Raises:
            InputError: unless 0 <= num_blocks <= L.
        """
        if num_blocks == 0:
            cuts = [i for i, (local, up) in enumerate(self.alpha) if local > up]
            return self._at(cuts, {"rule": "a_loc > a_up"})
        check_num_blocks(num_blocks, self.num_layers)
        best = np.argsort(-self.margins(), kind="stable")[: num_blocks - 1]
        return self._at(sorted(int(cut) for cut in best), {"num_blocks": num_blocks})

    def _at(self, cuts: list[int], how: dict[str, Any]) -> Decoupling:
        aux = [self.preferred_aux(cut) for cut in cuts]
        return Decoupling(
            backbone=self.backbone, cuts=cuts, aux=aux, provenance={**self.provenance, **how}
        )


def load_document(path: Path) -> Decoupling | SearchResult:
    """Read whichever of the two documents a file is.

    Raises:
        InputError: if it is neither.
    """
    content = read_json(path)
    format_ = content.get("format") if isinstance(content, dict) else None
    is_result = format_ == SearchResult.model_fields["format"].default
    return SearchResult.load(path) if is_result else Decoupling.load(path)


def load_decoupling(
    path: Path,
    num_blocks: int | None = None,
    derive: Callable[[SearchResult, int], Decoupling] = SearchResult.decoupling,
) -> Decoupling:
    """Read a decoupling or derive it from a search result.

    Args:
        path: Of either document.
        num_blocks: K; 0 for the threshold rule, see `SearchResult.decoupling`. Needed with a search
            result, and only there.
        derive: Makes the decoupling of a search result for K.

    Raises:
        InputError: if the file is neither or does not go with ``num_blocks``.
    """
    document = load_document(path)
    if isinstance(document, SearchResult):
        if num_blocks is None:
            raise InputError(f"num_blocks: must be given, as {path} is a search result")
        return derive(document, num_blocks)
    if num_blocks is not None:
        raise InputError.rule(
            "num_blocks", f"must not be given, as {path} is a decoupling", num_blocks
        )
    return document
