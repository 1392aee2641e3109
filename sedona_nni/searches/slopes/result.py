"""What slopes end with."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import Self

from sedona_nni.decouplings.outcome import SearchOutcome

__all__ = ["SlopeResult"]


class SlopeResult(SearchOutcome):
    """By how much a little of each cut lowers the loss at the end of a training, per share.

    The evidence for a cut at j with c is its slope s_jc, whatever is below it: to first order
    cutting lowers the validation loss by the sum of the slopes. K can be left to it: a cut whose
    slope is positive helps.

    Attributes:
        slopes: s_jc = - dL/dz_jc, nats, L-1 rows of C; see `sedona_nni.searches.slopes.slopes`.

    Examples:
        >>> from sedona_nni import SlopeResult, discretise
        >>> found = SlopeResult(
        ...     backbone="mine", dataset="digits", aux_choices=["conv1", "mlp"],
        ...     slopes=[[-0.2, -0.1], [0.1, 0.3], [-0.1, -0.3]],
        ... )
        >>> discretise(found, 3).in_words()
        'cut after layer 0 (mlp) and 1 (mlp)'
        >>> discretise(found, 0).in_words()
        'cut after layer 1 (mlp)'
    """

    tells_num_blocks: ClassVar[bool] = True

    format: Literal["sedona-nni/slope-result/1"] = "sedona-nni/slope-result/1"
    slopes: list[list[Annotated[float, Field(allow_inf_nan=False)]]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        widths = {len(row) for row in self.slopes}
        if widths - {len(self.aux_choices)}:
            raise ValueError(
                "slopes must have one entry per auxiliary choice in each row, "
                f"{len(self.aux_choices)}, but got {sorted(widths)}"
            )
        return self

    @property
    def num_layers(self) -> int:
        """L, the number of layers of the backbone."""
        return len(self.slopes) + 1

    @property
    def rule_for_num_blocks(self) -> str:
        """See `SearchOutcome.rule_for_num_blocks`."""
        return "slope > 0"

    def in_words(self) -> str:
        """See `SearchOutcome.in_words`: how many boundaries have a cut that helps."""
        helping = sum(max(row) > 0 for row in self.slopes)
        return f"slopes, positive at {helping} of {len(self.slopes)} boundaries"

    def evidence(self) -> np.ndarray:
        """See `SearchOutcome.evidence`."""
        slopes = np.array(self.slopes, dtype=np.float64)
        return np.tile(slopes, (len(slopes), 1, 1))

    def ranked_aux(self, boundary: int) -> list[str]:
        """Return all auxiliary networks, that of the largest slope first."""
        order = np.argsort(-np.array(self.slopes[boundary]), kind="stable")
        return [self.aux_choices[c] for c in order]
