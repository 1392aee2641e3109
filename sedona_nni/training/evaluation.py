"""How good a decoupled network is, each of its classifiers and the last of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nni.data.batches import ImageSet, evaluation_batches
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.models.placement import lay_out
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.methods.method import autocast
from sedona_nni.training.settings import TrainSettings, Vote

__all__ = ["Evaluation", "block_accuracies", "ensemble_votes", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of images.

    Attributes:
        loss: Mean loss of the final head.
        accuracies: Share of images that each classifier gets right, see
            `DecoupledNetwork.classifier_logits`; the last is the head.
        ensemble_accuracy: That of the last n classifiers together.

    Examples:
        >>> from sedona_nni import Evaluation
        >>> test = Evaluation(loss=0.7, accuracies=[0.75, 0.8], ensemble_accuracy=0.8)
        >>> test.accuracies[-1]  # of the head
        0.8
    """

    loss: float
    accuracies: list[float]
    ensemble_accuracy: float


@torch.no_grad()
def evaluate(
    network: DecoupledNetwork,
    dataset: ImageSet,
    settings: TrainSettings,
    device: torch.device | str,
) -> Evaluation:
    """Try every classifier on every image, in evaluation mode.

    Args:
        network: The network, on ``device`` (`placement.place`); it is left in evaluation mode.
        dataset: The images.
        settings: Gives batch size, smoothing of the loss, precision, and the ensemble's size and
            vote.
        device: Where to compute.

    Examples:
        >>> from sedona_nni import (
        ...     Task, TrainSettings, build_decoupled, decoupling_by_rule, evaluate, load_splits,
        ...     task_backbone,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> two_blocks = decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4)
        >>> network = build_decoupled(task_backbone(task), two_blocks)
        >>> splits = load_splits(task, validation_fraction=0.2)
        >>> test = evaluate(network, splits.test, TrainSettings(), device="cpu")
        >>> len(test.accuracies)  # of the auxiliary network and of the head
        2
    """
    network.eval()
    criterion = LabelSmoothing(settings.label_smoothing)
    counts = torch.zeros(len(network.classified) + 1, device=device)
    loss = torch.zeros((), device=device)
    for images, labels in evaluation_batches(dataset, settings.evaluation_batch_size, device):
        with autocast(images.device, settings.amp):
            logits = network.classifier_logits(lay_out(images))
        logits = [part.float() for part in logits]
        together = ensemble_votes(logits[-settings.ensemble :], settings.ensemble_vote)
        counts += torch.stack([(votes.argmax(1) == labels).sum() for votes in (*logits, together)])
        loss += criterion(logits[-1], labels) * len(labels)
    *accuracies, ensemble_accuracy = (counts / len(dataset)).tolist()
    return Evaluation(loss.item() / len(dataset), accuracies, ensemble_accuracy)


def ensemble_votes(logits: Sequence[Tensor], vote: Vote) -> Tensor:
    """Return how much several classifiers together are for each class, (B, classes).

    With z_i the logits of classifier i, lowest first, this is the sum over i of log softmax(z_i)
    for ``log-probabilities``, of 2^i z_i for ``logits``, and of 2^i softmax(z_i) for
    ``probabilities``. Sources: the public SEDONA release; DGL's for CIFAR-10 and for ImageNet.

    Args:
        logits: One tensor per classifier, (B, classes).
        vote: Which sum.
    """
    parts = torch.stack(list(logits))
    if vote == "log-probabilities":
        return parts.log_softmax(2).sum(0)
    if vote == "probabilities":
        parts = parts.softmax(2)
    weights = 2.0 ** torch.arange(len(parts), device=parts.device)
    return torch.einsum("i,ibc->bc", weights, parts)


def block_accuracies(network: DecoupledNetwork, evaluation: Evaluation) -> dict[str, float]:
    """Return the accuracies by name, ``block_1_accuracy`` ... of the blocks with a classifier."""
    return {
        f"block_{index + 1}_accuracy": accuracy
        for index, accuracy in zip(network.classified, evaluation.accuracies, strict=True)
    }
