"""A backbone cut into gradient-isolated blocks, each with its own classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone
from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.teachers import NO_AUXILIARY
from sedona_nni.teachers.auxiliary import (
    AuxiliaryNetwork,
    Seen,
    Teacher,
    auxiliary_context,
    build_auxiliary,
    taught,
)

__all__ = ["Block", "DecoupledNetwork", "build_decoupled"]


class Block(nn.Module):
    """A run of layers and the classifier that teaches them.

    Attributes:
        layers: The layers, in order.
        classifier: Their auxiliary network or, in the last block, the backbone's head. None below
            a cut without auxiliary network; such a block needs another teacher.
        checkpointed: Whether a backward pass computes the inside of each layer again, from the
            layer's input, instead of having kept it.
    """

    def __init__(self, layers: Sequence[nn.Module], classifier: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.classifier = classifier
        self.checkpointed = False

    @property
    def looks(self) -> bool:
        """Whether its teacher looks beyond the boundary at each step."""
        return isinstance(self.classifier, Teacher) and self.classifier.sees()

    def forward(self, features: Tensor) -> Tensor:
        """Map the features (or images) below the block to those above it, (B, C, S, S)."""
        for layer in self.layers:
            features = self._through(layer, features)
        return features

    def _through(self, layer: nn.Module, features: Tensor) -> Tensor:
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return _checkpointed(layer, features)
        out: Tensor = layer(features)
        return out

    def transported(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and how far the layers move what they are given, shape ():

            sum over layers f that keep its shape of mean over images of |f(h) - h|^2

        Args:
            features: As for `forward`.
        """
        cost = torch.zeros((), device=features.device)
        for layer in self.layers:
            moved = self._through(layer, features)
            if moved.shape == features.shape:
                cost = cost + (moved - features).flatten(1).square().sum(1).mean()
            features = moved
        return features, cost

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
    contexts = functools.partial(_contexts, layer)
    out: Tensor = checkpoint(layer, features, use_reentrant=False, context_fn=contexts)
    return out


def _contexts(
    layer: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what a layer runs in the first and the second time."""
    return nullcontext(), _counted_once(layer)


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
        outputs = [images]
        for block in self.blocks:
            outputs.append(block(outputs[-1].detach()))
        return outputs[1:]

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

    The layers and the head are the backbone's own, not copies. Auxiliary networks are new; their
    weights come from torch's global generator.

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
        if name == NO_AUXILIARY
        else build_auxiliary(name, auxiliary_context(backbone, cut, name, run.start))
        for cut, name, run in zip(decoupling.cuts, decoupling.aux, runs, strict=False)
    ]
    return DecoupledNetwork(
        [
            Block([backbone.layers[index] for index in run], classifier)
            for run, classifier in zip(runs, [*classifiers, backbone.head], strict=True)
        ]
    )
