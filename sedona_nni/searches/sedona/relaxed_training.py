"""Trains the relaxed network itself, with alpha and beta as they were found.

Nothing is cut then: every layer goes on learning from the mixture of losses that the search ended
with, and every auxiliary candidate stays. That shows what is lost by discretising. Seen from
outside the relaxed network is one block that has a loss of its own. What a search found in release
mode, or the authors' release itself, is trained as the release does (its ``--eval-continuous``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone
from sedona_nni.searches.sedona.mixed_losses import mixed_losses
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork, gradient_valve
from sedona_nni.searches.sedona.release_mode import rescaled_logits
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.teachers.auxiliary import AuxiliaryNetwork, Criterion

__all__ = ["RelaxedClassifier", "build_relaxed"]


class RelaxedClassifier(AuxiliaryNetwork):
    """The relaxed network as the classifier of images.

    Attributes:
        network: The relaxed network; its alpha and beta are not trained.
        release_mode: Whether auxiliary networks are rescaled as in `release_mode`.
        mixes_losses: Whether losses are mixed in place of logits, see `mixed_losses`.
    """

    def __init__(
        self, network: RelaxedNetwork, release_mode: bool = False, mixes_losses: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.release_mode = release_mode
        self.mixes_losses = mixes_losses
        network.alpha.requires_grad_(False)
        network.beta.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to the final head's logits, (B, num_classes)."""
        logits: Tensor = self.network.backbone(images)
        return logits

    def local_loss(
        self, images: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of all local losses and the final one, shape (), and the final logits.

        Through the valves of `relaxation` every layer gets its gradient of G_i from it.
        """
        network = self.network
        a, b = network.a, network.b
        at_boundaries, logits = network(images, a)
        loss = criterion(logits, labels)
        for mixed in network.mixed:
            features = [at_boundaries[i] for i in mixed.boundaries]
            if self.mixes_losses:
                each = mixed.each(mixed.behind(gradient_valve, features, a))
                local = mixed_losses(criterion, each, labels, mixed.own(b))
            else:
                if self.release_mode:
                    local_logits = rescaled_logits(mixed, features, a, b, gradient_valve)
                else:
                    local_logits = mixed(mixed.behind(gradient_valve, features, a), mixed.own(b))
                local = torch.stack([criterion(each, labels) for each in local_logits])
            loss = loss + local.sum()
        return loss, logits


def build_relaxed(backbone: Backbone, found: SearchResult) -> DecoupledNetwork:
    """Return the relaxed network of a search result, ready for `training.loop.train`.

    It learns in the mode in which it was found.

    The backbone is used itself. Auxiliary networks are new; their weights come from torch's global
    generator.

    Raises:
        InputError: if the result is of another backbone or an auxiliary network is unknown.
    """
    if (found.backbone, found.num_layers) != (backbone.name, backbone.num_layers):
        raise InputError.rule(
            "search_result.backbone",
            f"must be {backbone.name} with {backbone.num_layers} layers",
            f"{found.backbone} with {found.num_layers}",
        )
    network = RelaxedNetwork(backbone, found.aux_choices)
    with torch.no_grad():
        network.alpha.copy_(torch.tensor(found.alpha))
        network.beta.copy_(torch.tensor(found.beta))
    classifier = RelaxedClassifier(network, found.in_release_mode, found.mixes_losses)
    return DecoupledNetwork([Block([], classifier)])
