"""What SEDONA's search ends with.

Notation (L layers, C auxiliary choices):
    alpha        (L-1, 2) logits; softmax(alpha_i) = (a_i^loc, a_i^up)
    beta         (L-1, C) logits; softmax(beta_i) weighs the auxiliary choices at boundary i
Source: Pyeon et al., "SEDONA: Search for Decoupled Neural Networks toward Greedy Block-wise
Learning", ICLR 2021.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator
from typing_extensions import Self

from sedona_nni.decouplings.outcome import SearchOutcome

__all__ = ["SearchResult"]


class SearchResult(SearchOutcome):
    """The relaxation that SEDONA's search ended with.

    The evidence is alpha_i^loc - alpha_i^up = log(a_i^loc / a_i^up). These logit differences order
    the boundaries as a^loc does, but also where a^loc itself rounds to equal numbers, as near 0.5
    it does in float32 (21 of the 49 boundaries of the published ResNet-152 result).

    Chosen by perturbation, the evidence is by how much the validation loss is lower with the cut
    and its best auxiliary network than without it, see `perturbation`.

    Attributes:
        alpha: The logits of every boundary.
        beta: The logits of its auxiliary choices.
        perturbed: Validation loss after some steps with a choice made for good, nats, L-1 rows of
            1 + C: not cut, and cut with each auxiliary network. None if nothing was perturbed.

    Examples:
        >>> from sedona_nni import SearchResult, discretise
        >>> found = SearchResult(
        ...     backbone="mine", dataset="digits", aux_choices=["conv1", "conv2"],
        ...     alpha=[(1, 0), (3, 0), (0, 2)], beta=[(0, 1), (1, 0), (0, 0)],
        ... )
        >>> found.a_loc().round(2).tolist()
        [0.73, 0.95, 0.12]
        >>> discretise(found, 2).in_words()
        'cut after layer 1 (conv1)'
    """

    tells_num_blocks: ClassVar[bool] = True
    one_aux_each: ClassVar[bool] = True

    format: Literal["sedona-nni/search-result/1"] = "sedona-nni/search-result/1"
    alpha: list[tuple[float, float]]
    beta: list[list[float]]
    perturbed: list[list[float]] | None = None

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
        if self.perturbed is not None and {len(row) for row in self.perturbed} - {
            1 + len(self.aux_choices)
        }:
            raise ValueError(
                "perturbed rows must have an entry for no cut and one per auxiliary choice, "
                f"{1 + len(self.aux_choices)}, but got {sorted(map(len, self.perturbed))}"
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

    @property
    def rule_for_num_blocks(self) -> str:
        """See `SearchOutcome.rule_for_num_blocks`."""
        return "a_loc > a_up" if self.perturbed is None else "lower loss with the cut"

    def worth(self) -> np.ndarray | None:
        """Return by how much each cut lowers the loss, nats, shape (L-1, C), float64; None if
        nothing was perturbed."""
        if self.perturbed is None:
            return None
        losses = np.array(self.perturbed, dtype=np.float64)
        return np.asarray(losses[:, :1] - losses[:, 1:])

    def evidence(self) -> np.ndarray:
        """See `SearchOutcome.evidence`; whatever is below a cut and stands at it, its margin or,
        chosen by perturbation, what it is worth with the best auxiliary network."""
        worth = self.worth()
        margins = self.margins() if worth is None else worth.max(axis=1)
        return np.tile(margins[:, None], (len(margins), 1, len(self.aux_choices)))

    @property
    def in_release_mode(self) -> bool:
        """Whether it was found in release mode, or by the authors' release, as it says itself."""
        return self._searched_with("release_mode", True)

    @property
    def mixes_losses(self) -> bool:
        """Whether it was found with mixed losses, as it says itself, see `mixed_losses`."""
        return self._searched_with("mix", "losses")

    def _searched_with(self, name: str, value: Any) -> bool:
        settings = self.provenance.get("settings")
        return isinstance(settings, dict) and bool(settings.get(name) == value)

    def a_loc(self) -> np.ndarray:
        """Return a^loc = softmax(alpha)[:, 0], shape (L-1,), float64: how much each boundary
        prefers its local loss, i.e. a cut."""
        return np.asarray(np.exp(-np.logaddexp(0, -self.margins())))  # never overflows

    @property
    def undecided_share(self) -> float:
        """Share of the boundaries whose a^loc is within 0.01 of 0.5, where all of them start."""
        return float(np.mean(np.abs(self.a_loc() - 0.5) < 0.01)) if self.alpha else 0.0

    def in_words(self) -> str:
        """See `SearchOutcome.in_words`: how many boundaries are undecided."""
        boundaries = len(self.alpha)
        undecided = round(self.undecided_share * boundaries)
        return f"relaxation, {undecided} of {boundaries} boundaries undecided"

    def for_reports(self) -> dict[str, Any]:
        """See `SearchOutcome.for_reports`: ``a_loc``, and what share of it is ``undecided``."""
        return {"a_loc": self.a_loc().tolist(), "undecided": self.undecided_share}

    def ranked_aux(self, boundary: int) -> list[str]:
        """Return the auxiliary network of the largest beta or worth alone; of equals the first."""
        worth = self.worth()
        preferences = self.beta[boundary] if worth is None else worth[boundary]
        return [self.aux_choices[int(np.argmax(preferences))]]
