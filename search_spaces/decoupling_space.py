"""All decouplings of a backbone as an NNI model space.

The mutables (L layers, K blocks; boundary i is the place after layer i):
    cut/<k>        k < K-1, when K is given: the k-th cut is the cut/<k>-th, from 0, of the
                   boundaries that the cuts before it have left free
    cut_after/<i>  i < L-1, when K is not given: whether boundary i is cut
    aux/<i>        i < L-1: the auxiliary network at boundary i, used if it is cut

Why are the cuts not one ``nni.mutable.CategoricalMultiple``? This was tried with NNI 3.0's
strategies:
    one CategoricalMultiple: RegularizedEvolution can only redraw all the cuts at once; TPE and the
        web UI refuse it (it has no ``as_legacy_dict``).
    one boolean per boundary under the constraint that K-1 are true: NNI draws the booleans freely
        and repeats the draw, at most 500 times, while the constraint is violated; with L=16 and K=2
        one draw in 2,185 is valid. TPE ends with an exception at the first violation.
    the mutables above: every combination of values is valid, uniform samples are uniform
        decouplings, evolution moves single cuts, and TPE and the web UI work.
Their price: several samples mean one decoupling. `DistinctDecouplings` deals with that.

With a bound on the blocks (``max_block_share``) a sample means the decoupling within the bound that
is nearest to what it means without: the cuts that need the least moving, and where the auxiliary
network at one is too large for its block, the first that fits. So every combination of values stays
valid here, too. Under a constraint of NNI's, with ResNet-50, K = 4 and 1.3/K, one draw in 91 would
be valid, and TPE ends at the first that is not. Random draws of a `DistinctDecouplings` are uniform
over the decouplings within the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nni.mutable import Categorical, Sample, label_scope
from torch import Tensor, nn

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.models import Activation, Backbone, Stem, build_backbone, num_layers
from sedona_nni.search_spaces.nni_nas import (
    DuplicationError,
    ModelSpace,
    SimplifiedModelSpace,
)
from sedona_nni.teachers.auxiliary import check_choices

__all__ = ["DecouplingSpace", "DistinctDecouplings"]


@dataclass(frozen=True)
class _Encoding:
    """How samples of NNI's mutables and decouplings translate into each other."""

    backbone: str
    num_boundaries: int
    aux_choices: tuple[str, ...]
    num_blocks: int | None
    bound: BlockBound | None

    def __post_init__(self) -> None:
        if self.num_blocks is not None:
            check_num_blocks(self.num_blocks, self.num_boundaries + 1)
        check_choices(self.aux_choices)
        if self.bound is not None:
            if self.num_blocks is None:
                raise InputError("num_blocks: must be given with a bound on the blocks")
            self.bound.check_covers(self.backbone, self.aux_choices)
            ends = self.bound.ends([self.aux_choices] * self.num_boundaries)
            self.bound.check(self.num_blocks, ends)

    def mutables(self) -> list[Categorical]:
        boundaries = range(self.num_boundaries)
        choices: dict[str, list[Sequence[Any]]]
        if self.num_blocks is None:
            choices = {"cut_after": [[False, True] for _ in boundaries]}
        else:
            choices = {"cut": [range(self.num_boundaries - k) for k in range(self.num_blocks - 1)]}
        choices["aux"] = [self.aux_choices for _ in boundaries]
        mutables = []
        for kind, values in choices.items():
            with label_scope(kind):
                mutables += [Categorical(v, label=str(i)) for i, v in enumerate(values)]
        return mutables

    def decoupling(self, sample: Sample) -> Decoupling:
        if self.num_blocks is None:
            cuts = [i for i in range(self.num_boundaries) if sample[f"cut_after/{i}"]]
        else:
            free = list(range(self.num_boundaries))
            cuts = sorted(free.pop(sample[f"cut/{k}"]) for k in range(self.num_blocks - 1))
        if self.bound is not None:
            wanted = [sample[f"aux/{i}"] for i in range(self.num_boundaries)]
            return self.bound.nearest(cuts, [[name, *self.aux_choices] for name in wanted])
        return Decoupling(
            backbone=self.backbone, cuts=cuts, aux=[sample[f"aux/{cut}"] for cut in cuts]
        )

    def sample(self, decoupling: Decoupling) -> Sample:
        if decoupling.backbone != self.backbone:
            raise InputError.rule("backbone", f"must be {self.backbone}", decoupling.backbone)
        if self.num_blocks is not None and decoupling.num_blocks != self.num_blocks:
            raise InputError.rule("cuts", f"must be {self.num_blocks - 1} cuts", decoupling.cuts)
        if not set(decoupling.aux) <= set(self.aux_choices):
            raise InputError.rule("aux", f"must be of {list(self.aux_choices)}", decoupling.aux)
        decoupling.blocks(self.num_boundaries + 1)  # the cuts are boundaries
        if self.bound is not None:
            self.bound.require(decoupling, "cuts")
        sample: Sample
        if self.num_blocks is None:
            sample = {f"cut_after/{i}": i in decoupling.cuts for i in range(self.num_boundaries)}
        else:  # in rising order, k boundaries below the k-th cut are no longer free
            sample = {f"cut/{k}": cut - k for k, cut in enumerate(decoupling.cuts)}
        aux = dict(zip(decoupling.cuts, decoupling.aux, strict=True))
        for i in range(self.num_boundaries):
            sample[f"aux/{i}"] = aux.get(i, self.aux_choices[0])
        return sample


class DecouplingSpace(ModelSpace):
    """Every way of cutting a backbone into blocks with an auxiliary network at each cut.

    Samples become networks by ``space.freeze(sample)``, a trainable `DecoupledNetwork` with fresh
    weights, and documents by ``space.decoupling(sample)``. Building a space builds no network, but
    for a model from elsewhere, to find its layers.

    A space is not a network, until a one-shot strategy installs one that stands for all of its
    decouplings as ``space.supernet``.

    Args:
        backbone: Name of a backbone, see `sedona_nni.models`.
        aux_choices: Names of the auxiliary networks to choose from, see `teachers.auxiliary`.
        num_classes: Number of classes to tell apart.
        num_blocks: K; the space has K-1 cuts then. ``None``: any subset of the boundaries is cut.
        in_channels: Channels of the images.
        image_size: Height and width of the images, see `sedona_nni.image_size`.
        width_multiplier: Factor on every width of the backbone.
        activation: Makes the non-linearity of backbone and auxiliary networks.
        stem: Of a ResNet, see `sedona_nni.models.resnet`.
        bound: Only decouplings within it; needs ``num_blocks``.

    Raises:
        InputError: for an unknown backbone or auxiliary network, unless 1 <= K <= L, or if K blocks
            cannot respect the bound.
    """

    def __init__(
        self,
        backbone: str,
        aux_choices: Sequence[str],
        *,
        num_classes: int,
        num_blocks: int | None = None,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        width_multiplier: float = 1.0,
        activation: Activation = nn.ReLU,
        stem: Stem = "published",
        bound: BlockBound | None = None,
    ) -> None:
        super().__init__()
        boundaries = num_layers(backbone, image_size) - 1
        self._encoding = _Encoding(backbone, boundaries, tuple(aux_choices), num_blocks, bound)
        self._shape: dict[str, Any] = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
            "width_multiplier": width_multiplier,
            "activation": activation,
            "stem": stem,
        }
        self.supernet: nn.Module | None = None
        for mutable in self._encoding.mutables():
            self.add_mutable(mutable)

    @property
    def aux_choices(self) -> list[str]:
        """Names of the auxiliary networks to choose from."""
        return list(self._encoding.aux_choices)

    @property
    def num_blocks(self) -> int | None:
        """K, or ``None`` if it is open."""
        return self._encoding.num_blocks

    @property
    def bound(self) -> BlockBound | None:
        """What the blocks respect."""
        return self._encoding.bound

    def backbone(self) -> Backbone:
        """Build the backbone, uncut, with fresh weights."""
        return build_backbone(self._encoding.backbone, **self._shape)

    def decoupling(self, sample: Sample) -> Decoupling:
        """Return what a sample means; equal decouplings for samples of equal meaning.

        Raises:
            nni.mutable.SampleValidationError: if the sample is not one of this space.
        """
        self.validate(sample)
        return self._encoding.decoupling(sample)

    def sample(self, decoupling: Decoupling) -> Sample:
        """Return the canonical sample of a decoupling: cuts in rising order, and the first
        auxiliary choice wherever there is no cut.

        Raises:
            InputError: if the space does not contain the decoupling.
        """
        return self._encoding.sample(decoupling)

    def random_within_bound(self, random_state: np.random.RandomState) -> Sample:
        """Draw a decoupling within the bound, all equally likely, as the part of a sample that says
        where and how to cut; without a bound any sample is as good, and this is empty."""
        if self.bound is None or self.num_blocks is None:
            return {}
        drawn = self.bound.random(self.num_blocks, self.aux_choices, random_state)
        used = [f"aux/{cut}" for cut in drawn.cuts]
        return {
            label: value
            for label, value in self.sample(drawn).items()
            if label in used or label.startswith("cut/")
        }

    def freeze(self, sample: Sample) -> DecoupledNetwork:
        """Build the network that a sample means, with fresh weights.

        Raises:
            nni.mutable.SampleValidationError: if the sample is not one of this space.
        """
        return build_decoupled(self.backbone(), self.decoupling(sample))

    @classmethod
    def create_fixed_module(cls, sample: Sample, *args: Any, **kwargs: Any) -> DecoupledNetwork:
        """Let ``DecouplingSpace(...)`` within ``model_context(sample)`` be ``freeze(sample)``.

        This is how NNI's multi-trial strategies build the networks that they have chosen.
        """
        space = object.__new__(cls)  # cls(...) would come back here
        space.__init__(*args, **kwargs)  # type: ignore[misc]
        return space.freeze(sample)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the network that a one-shot strategy has installed."""
        if self.supernet is None:
            raise RuntimeError("a DecouplingSpace is not a network, freeze(sample) builds one")
        logits: Tensor = self.supernet(images)
        return logits


class DistinctDecouplings(SimplifiedModelSpace):
    """The form of a `DecouplingSpace` that NNI's strategies draw from, without repetitions.

    NNI compares samples, and many samples mean the same decoupling: they differ in the order of the
    cuts or in the auxiliary networks where nothing is cut. Here a decoupling can be frozen once;
    the next time is the error by which NNI's own duplicate check makes Random and
    RegularizedEvolution draw again (500 times, then they end). NNI's TPE does not expect that
    error, it needs a plain ``SimplifiedModelSpace``.
    """

    def __init__(self, model: Any, mutables: Any, evaluator: Any) -> None:
        super().__init__(model, mutables, evaluator)
        self._space: DecouplingSpace = self.model.get()
        self._seen: set[Decoupling] = set()

    def random(
        self, memo: Sample | None = None, random_state: np.random.RandomState | None = None
    ) -> DistinctDecouplings:
        """Return the model for a random sample, which is written into ``memo``.

        Raises:
            DuplicationError: if its decoupling was frozen before.
        """
        sample = {} if memo is None else memo
        random_state = random_state or np.random.RandomState()
        for mutable in self.simplify().values():
            mutable.random(sample, random_state)
        sample.update(self._space.random_within_bound(random_state))
        return self.freeze(sample)

    def freeze(self, sample: Sample) -> DistinctDecouplings:
        """Return the model for a sample.

        Raises:
            DuplicationError: if its decoupling was frozen before.
        """
        self.validate(sample)
        decoupling = self._space.decoupling(sample)
        if decoupling in self._seen:
            raise DuplicationError(sample)
        self._seen.add(decoupling)
        return super().freeze(sample)
