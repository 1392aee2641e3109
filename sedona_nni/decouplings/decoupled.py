"""A backbone cut into gradient-isolated blocks, each with its own classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sedona_nni.decouplings.cut_kinds import Context
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone
from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.teachers import NO_AUXILIARY, CutKind, network_at
from sedona_nni.teachers.auxiliary import (
    AuxiliaryNetwork,
    Seen,
    Teacher,
    auxiliary_context,
    build_auxiliary,
    taught,
)

__all__ = ["Block", "DecoupledNetwork", "Passed", "build_context", "build_decoupled"]


class Passed(NamedTuple):
    """What a block makes of its input.

    Attributes:
        features: What its last layer returns.
        lent: What its last layer is given, of which a block above an overlap learns.
        moved: How far the layers move what they are given, shape (), None if not asked for:
            sum over layers f that keep its shape of mean over images of |f(h) - h|^2
    """

    features: Tensor
    lent: Tensor
    moved: Tensor | None


class Block(nn.Module):
    """A run of layers and the classifier that teaches them.

    Attributes:
        layers: The layers, in order.
        classifier: Their auxiliary network or, in the last block, the backbone's head. None below
            a cut without auxiliary network; such a block needs another teacher.
        kind: Of the cut below, see `sedona_nni.decouplings.cut_kinds`; None of a plain one.
        context: What encodes a context, above a cut of the kinds that have one.
        checkpointed: Whether a backward pass computes the inside of each layer again, from the
            layer's input, instead of having kept it.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        classifier: nn.Module | None,
        kind: CutKind | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.classifier = classifier
        self.kind = kind
        self.context = context
        self.checkpointed = False

    @property
    def looks(self) -> bool:
        """Whether it, or its teacher, needs more at each step of training than its input."""
        sees = isinstance(self.classifier, Teacher) and self.classifier.sees()
        return sees or self.kind is not None

    def beside(self, images: Tensor | None, below: Tensor | None) -> Tensor | None:
        """Return what its context is made of, None if it has none.

        Args:
            images: The images.
            below: What the block below is given.
        """
        if self.context is None:
            return None
        return images if self.kind == "image" else below

    def forward(self, features: Tensor, beside: Tensor | None = None) -> Tensor:
        """Map the features (or images) below the block to those above it, (B, C, S, S).

        Args:
            features: What crosses below.
            beside: What its context is made of, see `beside`.
        """
        return self.through(features, beside).features

    def through(
        self,
        features: Tensor,
        beside: Tensor | None = None,
        *,
        shared: tuple[nn.Module, Tensor] | None = None,
        transports: bool = False,
    ) -> Passed:
        """Return what `forward` does, and what else comes of it.

        Args:
            features: As for `forward`.
            beside: Likewise.
            shared: Above an overlap, in training: the last layer of the block below, and what that
                was given; ``features`` are then not read.
            transports: Whether to add up how far features move.
        """
        if shared is not None:
            layer, given = shared
            with _counted_once(layer):
                features = self._through(layer, given)
        if self.context is not None:
            features = features + self.context(beside)
        lent, moved = features, torch.zeros((), device=features.device) if transports else None
        for layer in self.layers:
            lent = features
            features = self._through(layer, lent)
            if moved is not None and lent.shape == features.shape:
                # In mixed precision of single numbers, as squares can be beyond half ones
                moved = moved + F.mse_loss(features, lent, reduction="sum") / len(features)
        return Passed(features, lent, moved)

    def _through(self, layer: nn.Module, features: Tensor) -> Tensor:
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return _checkpointed(layer, features)
        out: Tensor = layer(features)
        return out

    def local_loss(
        self,
        features: Tensor,
        labels: Tensor,
        criterion: Callable[[Tensor, Tensor], Tensor],
        seen: Seen | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the block's own loss, shape (), and its logits, (B, num_classes).

        Only a block with a classifier has one.

        Args:
            features: What the block's layers return, (B, C, S, S).
            labels: Class numbers, (B,).
            criterion: Mean loss of logits and labels; an auxiliary network may have its own.
            seen: What a teacher that looks at more is shown; needed where `looks`.
        """
        if isinstance(self.classifier, AuxiliaryNetwork):
            return taught(self.classifier, features, labels, criterion, seen)
        assert self.classifier is not None
        logits: Tensor = self.classifier(features)
        return criterion(logits, labels), logits


def _checkpointed(layer: nn.Module, features: Tensor) -> Tensor:
    values: dict[int, Tensor] = {}  # what is shared has one
    before = [
        _Buffer(part, name, buffer, buffer._version, values.setdefault(id(buffer), buffer.clone()))
        for part in layer.modules()
        for name, buffer in part.named_buffers(recurse=False)
        if not (isinstance(part, BatchNorm) and name in _STATISTICS)  # see `_counted_once`
    ]
    changed: list[_Buffer] = []
    contexts = functools.partial(_contexts, layer, changed)
    out: Tensor = checkpoint(layer, features, use_reentrant=False, context_fn=contexts)
    changed += [each for each in before if each.has_changed]
    return out


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class _Buffer(NamedTuple):
    """A module's buffer before it ran, e.g. where the power iteration of spectral norm is."""

    part: nn.Module
    name: str
    buffer: Tensor
    version: int
    value: Tensor

    @property
    def has_changed(self) -> bool:
        now = getattr(self.part, self.name)
        return now is not self.buffer or now._version != self.version


def _contexts(
    layer: nn.Module, changed: list[_Buffer]
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer runs in the first and the second time."""
    return nullcontext(), _again(layer, changed)


@contextmanager
def _again(layer: nn.Module, changed: list[_Buffer]) -> Iterator[None]:
    """Let a layer begin where it began the first time, and leave its buffers as they are now."""
    now = [getattr(each.part, each.name) for each in changed]
    values: dict[int, Tensor] = {}
    for each in changed:
        value = values.setdefault(id(each.value), each.value.clone())
        setattr(each.part, each.name, value)
    try:
        with _counted_once(layer):
            yield
    finally:
        for each, buffer in zip(changed, now, strict=True):
            setattr(each.part, each.name, buffer)


@contextmanager
def _counted_once(layer: nn.Module) -> Iterator[None]:
    """Keep batch norms from taking a batch into their running statistics a second time.

    With a momentum of 0 they save what they saved the first time; without tracking they would not.
    """
    norms = [part for part in layer.modules() if isinstance(part, BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


class DecoupledNetwork(nn.Module):
    """K blocks in a row; no gradient passes from one to the one below.

    Attributes:
        blocks: The K blocks, an `nn.ModuleList`.

    Examples:
        >>> import torch
        >>> from sedona_nni import build_backbone, build_decoupled, decoupling_by_rule
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> network = build_decoupled(backbone, decoupling_by_rule("uniform:3:conv1", "vgg11", 8))
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> [len(block.layers) for block in network.blocks]
        [2, 3, 3]
        >>> [tuple(logits.shape) for logits in network.classifier_logits(images)]
        [(2, 10), (2, 10), (2, 10)]
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        # Seen as a list by type checkers, which otherwise do not know what is in it
        self.blocks = cast("list[Block]", nn.ModuleList(blocks))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what each block's layers make of the images, K tensors (B, C, S, S).

        Each depends on its own block's weights only.
        """
        outputs: list[Tensor] = []
        given = pixels = images.detach()
        below = None
        for block in self.blocks:
            outputs.append(block(given, block.beside(pixels, below)))
            given, below = outputs[-1].detach(), given
        return outputs

    def kind_above(self, place: int) -> CutKind | None:
        """Return the kind of the cut above a block, None of a plain one and above the last.

        Args:
            place: Of the block, from 0.
        """
        return self.blocks[place + 1].kind if place + 1 < len(self.blocks) else None

    def lends(self, place: int) -> bool:
        """Return whether the block above one learns through that one's last layer, too."""
        return self.kind_above(place) == "overlap"

    @property
    def classified(self) -> list[int]:
        """Indices of the blocks with a classifier, from 0: all, unless cuts have no network."""
        return [i for i, block in enumerate(self.blocks) if block.classifier is not None]

    def classifier_logits(self, images: Tensor) -> list[Tensor]:
        """Return the logits of every classifier, lowest block first, each (B, classes)."""
        return [
            block.classifier(features)
            for block, features in zip(self.blocks, self.features(images), strict=True)
            if block.classifier is not None
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, in_channels, S, S), to the final head's logits, (B, num_classes)."""
        head = self.blocks[-1].classifier
        assert head is not None
        logits: Tensor = head(self.features(images)[-1])
        return logits


def build_decoupled(backbone: Backbone, decoupling: Decoupling) -> DecoupledNetwork:
    """Cut a backbone.

    The layers and the head are the backbone's own, not copies. Auxiliary networks are new, and so
    are what encodes contexts; their weights come from torch's global generator.

    Raises:
        InputError: if the decoupling is of another backbone, a cut is not one of its boundaries,
            or an auxiliary network is unknown.

    Examples:
        >>> from sedona_nni import Decoupling, build_backbone, build_decoupled
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
        >>> network = build_decoupled(backbone, decoupling)
        >>> network.blocks[0].layers[0] is backbone.layers[0]
        True
    """
    if decoupling.backbone != backbone.name:
        raise InputError.rule(
            "decoupling.backbone", f"must be {backbone.name}", decoupling.backbone
        )
    runs = decoupling.blocks(backbone.num_layers)
    classifiers = [
        None
        if network_at(name) == NO_AUXILIARY
        else build_auxiliary(name, auxiliary_context(backbone, cut, name, run.start))
        for cut, name, run in zip(decoupling.cuts, decoupling.aux, runs, strict=False)
    ]
    kinds = [None, *decoupling.kinds]
    return DecoupledNetwork(
        [
            Block(
                [backbone.layers[index] for index in run],
                classifier,
                kind,
                build_context(backbone, kind, run.start - 1, below.start),
            )
            for run, below, classifier, kind in zip(
                runs, [range(0), *runs], [*classifiers, backbone.head], kinds, strict=False
            )
        ]
    )


def build_context(backbone: Backbone, kind: CutKind | None, cut: int, first: int) -> Context | None:
    """Return a new encoder of the context of a block, None if the cut below it is of no such kind.

    Args:
        backbone: The network.
        kind: Of the cut.
        cut: At which boundary it is.
        first: The first layer of the block below.
    """
    if kind not in ("image", "previous"):
        return None
    is_inside = kind == "previous" and first > 0
    source = backbone.shapes[first - 1] if is_inside else backbone.images
    return Context(source, backbone.boundaries[cut])
