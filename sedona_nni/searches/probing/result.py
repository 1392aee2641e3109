"""What probing ends with.

Why this evidence, and what it was judged by: docs/method.md, section 10.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from sedona_nni.decouplings.outcome import SearchOutcome

__all__ = ["ProbeResult"]

# Of the Gaussian process that smooths. Guesses that were made once and not tuned: what smoothing
# with them is worth is measured in docs/benchmark.md, "and not smoothed" beside it.
_LENGTH = 2.0  # layers; two cuts so far apart are alike to exp(-1/2) = 0.61
_COMMON = 0.5  # share of the variance that all auxiliary networks at a boundary have in common
_NOISE = 0.3  # variance of a short training's loss, as a share of that over all cuts


class ProbeResult(SearchOutcome):
    """What short trainings of single cuts came to, see `sedona_nni.searches.probing.probing`.

    With l_jc the losses, smoothed as `smoothed` says, and l the least of them and of the undivided
    backbone's, the evidence for the block of the layers i+1..j with auxiliary network c is

        e_ijc = - (j-i)/L (l_jc - l)

    How far the local signal falls short of the best one that there is counts as much as the share
    of layers that learn from it.

    Attributes:
        losses: Mean loss of each auxiliary network at each boundary in the second half of its short
            training, nats, L-1 rows of C.
        undivided: That of the undivided backbone's head, in as many steps of back-propagation.

    Examples:
        >>> from sedona_nni import ProbeResult, discretise
        >>> found = ProbeResult(
        ...     backbone="mine", dataset="digits", aux_choices=["conv1"],
        ...     losses=[[0.9], [0.5], [0.4]], undivided=0.3,
        ... )
        >>> discretise(found, 2).cuts
        [0]
    """

    tells_num_blocks: ClassVar[bool] = False

    format: Literal["sedona-nni/probe-result/1"] = "sedona-nni/probe-result/1"
    losses: list[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(min_length=1)
    undivided: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        widths = {len(row) for row in self.losses}
        if widths - {len(self.aux_choices)}:
            raise ValueError(
                "losses must have one entry per auxiliary choice in each row, "
                f"{len(self.aux_choices)}, but got {sorted(widths)}"
            )
        return self

    @property
    def num_layers(self) -> int:
        """L, the number of layers of the backbone."""
        return len(self.losses) + 1

    def in_words(self) -> str:
        """See `SearchOutcome.in_words`: how many probes of how many steps there were."""
        number = 1 + len(self.losses) * len(self.aux_choices)
        steps = self.provenance.get("steps")
        return f"{number} probes" if steps is None else f"{number} probes of {steps} steps"

    def smoothed(self) -> np.ndarray:
        """Return the losses as a Gaussian process sees them, shape (L-1, C), float64.

        A short training says little by itself, but neighbouring cuts are alike. The losses,
        standardised over all (j, c), are the values of a process with the covariance

            exp(-(j - j')^2 / (2 length^2)) (common + (1 - common) [c = c'])
              = exp(-(j - j')^2 / 8) (1 + [c = c']) / 2

        and noise of variance 0.3; the result is its posterior mean, in nats again.
        """
        observed = np.array(self.losses, dtype=np.float64)
        spread = observed.std()
        if spread == 0:
            return observed
        j, c = (each.ravel() for each in np.indices(observed.shape))
        alike = np.exp(-((j[:, None] - j) ** 2) / (2 * _LENGTH**2))
        kernel = alike * (_COMMON + (1 - _COMMON) * (c[:, None] == c))
        centred = (observed.ravel() - observed.mean()) / spread
        mean = kernel @ np.linalg.solve(kernel + _NOISE * np.eye(observed.size), centred)
        return np.asarray(observed.mean() + spread * mean.reshape(observed.shape))

    def shortfalls(self) -> np.ndarray:
        """Return l_jc - l, nats, at least 0, shape (L-1, C), float64."""
        smoothed = self.smoothed()
        return np.asarray(smoothed - min(self.undivided, smoothed.min()))

    def evidence(self) -> np.ndarray:
        """See `SearchOutcome.evidence`; at most 0."""
        boundaries = np.arange(self.num_layers - 1)
        learning = np.maximum(boundaries - boundaries[:, None] + 1, 0)  # layers below the cut
        return np.asarray(-learning[:, :, None] / self.num_layers * self.shortfalls())

    def ranked_aux(self, boundary: int) -> list[str]:
        """Return all auxiliary networks, that which falls short the least first."""
        order = np.argsort(self.shortfalls()[boundary], kind="stable")
        return [self.aux_choices[c] for c in order]
