"""Where a backbone is cut, and with which auxiliary networks: the object of the search.

Notation (L layers, K blocks, C auxiliary choices):
    boundary i   the place after layer i, 0 <= i <= L-2
    alpha        (L-1, 2) logits; softmax(alpha_i) = (a_i^loc, a_i^up)
    beta         (L-1, C) logits; softmax(beta_i) weighs the auxiliary choices at boundary i
    e_ijc        evidence for the block of the layers i+1..j, i.e. for a cut at boundary j with c
                 if the next one below is at i; decouplings have the cuts with the largest sum
Source: Pyeon et al., "SEDONA: Search for Decoupled Neural Networks toward Greedy Block-wise
Learning", ICLR 2021; of `ProbeResult` this project, docs/method.md section 10.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import Self

from sedona_nni.best_cuts import best_cuts, exact
from sedona_nni.errors import InputError
from sedona_nni.files import Document, read_json

__all__ = [
    "NO_AUXILIARY",
    "Decoupling",
    "ProbeResult",
    "SearchOutcome",
    "SearchResult",
    "check_num_blocks",
    "load_decoupling",
    "load_document",
    "load_outcome",
    "parse_result",
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


class SearchOutcome(Document, ABC):
    """What a search found out about every boundary; decouplings for every K can be derived from it.

    Attributes:
        backbone: What was searched.
        dataset: With which images.
        aux_choices: The C auxiliary networks that there were to choose from.
        provenance: How it came about.
    """

    tells_num_blocks: ClassVar[bool]
    """Whether the evidence also tells where no cut is better, so that K can be left to it."""

    backbone: str
    dataset: str
    aux_choices: list[str] = Field(min_length=1)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """L, the number of layers of the backbone."""

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

    @abstractmethod
    def decoupling(self, num_blocks: int) -> Decoupling:
        """Discretise: the K-1 cuts with the largest total evidence.

        At each cut stands the preferred auxiliary network. Ties go to the lower boundary. K = 0
        leaves their number to the search, where it tells.

        Raises:
            InputError: unless 0 <= num_blocks <= L, or if 0 is not for this kind of search.
        """

    def check_tells_num_blocks(self) -> None:
        """Check that K can be left to the search.

        Raises:
            InputError: if it cannot.
        """
        if not self.tells_num_blocks:
            rule = "must be at least 1 for a probing, which tells where to cut but not how often"
            raise InputError.rule("num_blocks", rule, 0)

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


class SearchResult(SearchOutcome):
    """The relaxation that SEDONA's search ended with.

    The evidence is alpha_i^loc - alpha_i^up = log(a_i^loc / a_i^up). These logit differences order
    the boundaries as a^loc does, but also where a^loc itself rounds to equal numbers, as near 0.5
    it does in float32 (21 of the 49 boundaries of the published ResNet-152 result).

    Attributes:
        alpha: The logits of every boundary.
        beta: The logits of its auxiliary choices.
    """

    tells_num_blocks: ClassVar[bool] = True

    format: Literal["sedona-nni/search-result/1"] = "sedona-nni/search-result/1"
    alpha: list[tuple[float, float]]
    beta: list[list[float]]

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

    def evidence(self) -> np.ndarray:
        """See `SearchOutcome.evidence`; whatever is below a cut and stands at it, its margin."""
        margins = self.margins()
        return np.tile(margins[:, None], (len(margins), 1, len(self.aux_choices)))

    @property
    def in_release_mode(self) -> bool:
        """Whether it was found in release mode, or by the authors' release, as it says itself."""
        settings = self.provenance.get("settings")
        return isinstance(settings, dict) and settings.get("release_mode") is True

    def a_loc(self) -> np.ndarray:
        """Return a^loc = softmax(alpha)[:, 0], shape (L-1,), float64: how much each boundary
        prefers its local loss, i.e. a cut."""
        return np.asarray(np.exp(-np.logaddexp(0, -self.margins())))  # never overflows

    @property
    def undecided_share(self) -> float:
        """Share of the boundaries whose a^loc is within 0.01 of 0.5, where all of them start."""
        return float(np.mean(np.abs(self.a_loc() - 0.5) < 0.01)) if self.alpha else 0.0

    def ranked_aux(self, boundary: int) -> list[str]:
        """Return the auxiliary network with the largest beta alone; of equals the first."""
        return [self.aux_choices[int(np.argmax(self.beta[boundary]))]]

    def decoupling(self, num_blocks: int) -> Decoupling:
        """See `SearchOutcome.decoupling`: the K-1 boundaries with the largest a^loc, and for K = 0
        those where a_i^loc > a_i^up."""
        margins = self.margins()
        if num_blocks == 0:
            return self.at([int(i) for i in np.flatnonzero(margins > 0)], {"rule": "a_loc > a_up"})
        check_num_blocks(num_blocks, self.num_layers)
        best = np.argsort(-margins, kind="stable")[: num_blocks - 1]
        return self.at(sorted(int(cut) for cut in best), {"num_blocks": num_blocks})


class ProbeResult(SearchOutcome):
    """What short trainings of single cuts came to, see `sedona_nni.probing`.

    With l_jc the losses, smoothed as `smoothed` says, and l the least of them and of the undivided
    backbone's, the evidence for the block of the layers i+1..j with auxiliary network c is

        e_ijc = - (j-i)/L (l_jc - l)

    How far the local signal falls short of the best one that there is counts as much as the share
    of layers that learn from it.

    Attributes:
        losses: Mean loss of each auxiliary network at each boundary in the second half of its short
            training, nats, L-1 rows of C.
        undivided: That of the undivided backbone's head, in as many steps of back-propagation.
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

    def smoothed(self) -> np.ndarray:
        """Return the losses as a Gaussian process sees them, shape (L-1, C), float64.

        A short training says little by itself, but neighbouring cuts are alike. The losses,
        standardised over all (j, c), are the values of a process with the covariance

            exp(-(j - j')^2 / 8) (1 + [c = c']) / 2

        and noise of variance 0.3; the result is its posterior mean, in nats again.
        """
        observed = np.array(self.losses, dtype=np.float64)
        spread = observed.std()
        if spread == 0:
            return observed
        j, c = (each.ravel() for each in np.indices(observed.shape))
        kernel = np.exp(-((j[:, None] - j) ** 2) / 8) * (1 + (c[:, None] == c)) / 2
        centred = (observed.ravel() - observed.mean()) / spread
        mean = kernel @ np.linalg.solve(kernel + 0.3 * np.eye(observed.size), centred)
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

    def decoupling(self, num_blocks: int) -> Decoupling:
        """See `SearchOutcome.decoupling`."""
        if num_blocks == 0:
            self.check_tells_num_blocks()
        check_num_blocks(num_blocks, self.num_layers)
        scores = np.pad(exact(self.evidence().max(axis=2)), (0, 1))  # the last block is worth 0
        ((_, cuts),) = best_cuts(self.num_layers, num_blocks, lambda _, i, j: scores[i + 1, j])
        return self.at(cuts, {"num_blocks": num_blocks})


_Outcome: TypeAdapter[SearchResult | ProbeResult] = TypeAdapter(
    Annotated[SearchResult | ProbeResult, Field(discriminator="format")]
)


def parse_result(content: Any) -> SearchResult | ProbeResult:
    """Return whichever kind of search some JSON is the outcome of.

    Raises:
        ValidationError: if it is of neither, or breaks a rule.
    """
    return _Outcome.validate_python(content)


def load_outcome(path: Path) -> SearchResult | ProbeResult:
    """Read what a search of either kind found.

    Raises:
        InputError: if the file is nothing of this sort.
    """
    try:
        return parse_result(read_json(path))
    except ValidationError as error:
        raise InputError.from_validation(error, str(path)) from None


def load_document(path: Path) -> Decoupling | SearchResult | ProbeResult:
    """Read whichever of these documents a file is.

    Raises:
        InputError: if it is none.
    """
    content = read_json(path)
    format_ = content.get("format") if isinstance(content, dict) else None
    results = [kind.model_fields["format"].default for kind in (SearchResult, ProbeResult)]
    return load_outcome(path) if format_ in results else Decoupling.load(path)


def load_decoupling(
    path: Path,
    num_blocks: int | None = None,
    derive: Callable[[SearchOutcome, int], Decoupling] = lambda found, count: found.decoupling(
        count
    ),
) -> Decoupling:
    """Read a decoupling or derive it from a search result.

    Args:
        path: Of either kind of document.
        num_blocks: K; 0 for the threshold rule, see `SearchOutcome.decoupling`. Needed with what a
            search found, and only there.
        derive: Makes the decoupling of a search's outcome for K.

    Raises:
        InputError: if the file is neither or does not go with ``num_blocks``.
    """
    document = load_document(path)
    if isinstance(document, SearchOutcome):
        if num_blocks is None:
            raise InputError(f"num_blocks: must be given, as {path} is a search result")
        return derive(document, num_blocks)
    if num_blocks is not None:
        raise InputError.rule(
            "num_blocks", f"must not be given, as {path} is a decoupling", num_blocks
        )
    return document
