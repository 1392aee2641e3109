"""What a search found out: the evidence from which decouplings are chosen.

Notation (L layers, K blocks, C auxiliary choices):
    boundary i   the place after layer i, 0 <= i <= L-2
    e_ijc        evidence for the block of the layers i+1..j, i.e. for a cut at boundary j with c
                 if the next one below is at i; decouplings have the cuts with the largest sum
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import Document

__all__ = ["SearchOutcome"]


class SearchOutcome(Document, ABC):
    """What a search found out about every boundary; decouplings for every K can be derived from it.

    Attributes:
        backbone: What was searched.
        dataset: With which images.
        aux_choices: The C auxiliary networks that there were to choose from.
        provenance: How it came about.

    Examples:
        >>> from sedona_nni import ProbeResult, SearchOutcome, SearchResult
        >>> issubclass(SearchResult, SearchOutcome), issubclass(ProbeResult, SearchOutcome)
        (True, True)
        >>> found = ProbeResult(
        ...     backbone="mine", dataset="digits", aux_choices=["conv1"],
        ...     losses=[[0.9], [0.5], [0.4]], undivided=0.3,
        ... )
        >>> found.num_layers, found.evidence().shape
        (4, (3, 3, 1))
    """

    tells_num_blocks: ClassVar[bool]
    """Whether the evidence also tells where no cut is better, so that K can be left to it."""

    one_aux_each: ClassVar[bool] = False
    """Whether there is but one auxiliary network for each boundary, be it too large for a block."""

    format: str
    backbone: str
    dataset: str
    aux_choices: list[str] = Field(min_length=1)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def format_name(cls) -> str:
        """Return the ``format`` of its documents."""
        return str(cls.model_fields["format"].default)

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """L, the number of layers of the backbone."""

    @property
    def rule_for_num_blocks(self) -> str:
        """What a K left to the evidence comes to in words, for a decoupling's provenance."""
        return "most evidence"

    @abstractmethod
    def evidence(self) -> np.ndarray:
        """Return the evidence, nats, shape (L-1, L-1, C), float64.

        Row i+1, column j has e_ijc, what speaks for a cut at boundary j with auxiliary network c if
        the next one below is at i (-1: none). Below the diagonal there is no meaning.
        """

    @abstractmethod
    def ranked_aux(self, boundary: int) -> list[str]:
        """Return the auxiliary networks that a cut there may get, the preferred one first."""

    def preferred_aux(self, boundary: int) -> str:
        """Return the auxiliary network that a cut there gets if nothing forbids it."""
        return self.ranked_aux(boundary)[0]

    def check_tells_num_blocks(self) -> None:
        """Check that K can be left to the search.

        Raises:
            InputError: if it cannot.
        """
        if not self.tells_num_blocks:
            rule = "must be at least 1 for a search that tells where to cut but not how often"
            raise InputError.rule("num_blocks", rule, 0)

    def in_words(self) -> str:
        """Return what was done, or how sure the search was, in a few words."""
        return f"evidence at {self.num_layers - 1} boundaries"

    def for_reports(self) -> dict[str, Any]:
        """Return what reports tell of it in numbers.

        ``evidence``: of each block the most of any auxiliary network, row i+1 from j = i+1 on; in
        place of this or beside it, what a search of its kind has.
        """
        most = self.evidence().max(axis=2)
        return {"evidence": [row[start:].tolist() for start, row in enumerate(most)]}

    def at(self, cuts: list[int], how: dict[str, Any], aux: list[str] | None = None) -> Decoupling:
        """Return the decoupling with given cuts.

        Args:
            cuts: Rising boundaries.
            how: How they were chosen; it becomes part of the provenance.
            aux: The auxiliary networks, by default the preferred ones.
        """
        if aux is None:
            aux = [self.preferred_aux(cut) for cut in cuts]
        return Decoupling(
            backbone=self.backbone, cuts=cuts, aux=aux, provenance={**self.provenance, **how}
        )
