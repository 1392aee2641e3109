"""How good a decoupled network is, each of its classifiers and the last of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nni.data.batches import ImageSet, evaluation_batches
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.models.placement import lay_out
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.precision import autocast
from sedona_nni.training.settings import TrainSettings, Vote
from sedona_nni.training.stage import Stage

__all__ = ["Evaluation", "ensemble_votes", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of images.

    Attributes:
        loss: Mean loss of the final head.
        accuracies: Share of images that each classifier gets right, see
            `DecoupledNetwork.classifier_logits`; the last is the head.
        ensemble_accuracy: That of the last n classifiers together.
        classified: The blocks with a classifier, from 0, in the same order.

    Examples:
        >>> from sedona_nni import Evaluation
        >>> test = Evaluation(
        ...     loss=0.7, accuracies=[0.75, 0.8], ensemble_accuracy=0.8, classified=[0, 1]
        ... )
        >>> test.accuracies[-1]  # of the head
        0.8
        >>> test.block_accuracies
        {'block_1_accuracy': 0.75, 'block_2_accuracy': 0.8}
    """

    loss: float
    accuracies: list[float]
    ensemble_accuracy: float
    classified: list[int]

    @property
    def block_accuracies(self) -> dict[str, float]:
        """The accuracies by name, ``block_1_accuracy`` ... of the blocks with a classifier."""
        return {
            f"block_{index + 1}_accuracy": accuracy
            for index, accuracy in zip(self.classified, self.accuracies, strict=True)
        }


@torch.no_grad()
def evaluate(
    network: DecoupledNetwork,
    dataset: ImageSet,
    settings: TrainSettings,
    device: torch.device | str,
    stage: Stage | None = None,
) -> Evaluation:
    """Try every classifier on every image, in evaluation mode.

    Args:
        network: The network, on ``device`` (`placement.place`); it is left in evaluation mode. Of
            several processes, the blocks that each has of it.
        dataset: The images.
        settings: Gives batch size, smoothing of the loss, precision, and the ensemble's size and
            vote.
        device: Where to compute.
        stage: Which blocks of the whole these are; by default all.

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
    stage = Stage(len(network.blocks)) if stage is None else stage
    size = settings.evaluation_batch_size or settings.batch_size
    stage.open([min(size, len(dataset) - start) for start in range(0, len(dataset), size)])
    counts = {
        index: torch.zeros((), device=device)
        for index, block in enumerate(network.blocks, stage.first)
        if block.classifier is not None
    }
    together, loss = torch.zeros((), device=device), torch.zeros((), device=device)
    criterion = LabelSmoothing(settings.label_smoothing)
    last = stage.num_blocks - 1
    batches = evaluation_batches(dataset, size, device) if network.blocks else ()
    for images, labels in batches:
        images, labels = stage.rows(images), stage.rows(labels)
        if not len(labels):  # a replica may have none of a small last batch
            continue
        pixels, below = lay_out(images), None
        features, *votes = stage.receive(pixels)
        for index, block in enumerate(network.blocks, stage.first):
            with autocast(images.device, settings.amp):
                features, below = block(features, block.beside(pixels, below)), features
                logits = None if block.classifier is None else block.classifier(features)
            if logits is not None:
                votes = [*votes, logits.float()][-settings.ensemble :]
                counts[index] += _hits(votes[-1], labels)
        if last in counts:
            together += _hits(ensemble_votes(votes, settings.ensemble_vote), labels)
            loss += criterion(votes[-1], labels) * len(labels)
        stage.send(features, *votes[max(0, len(votes) + 1 - settings.ensemble) :])
    found = stage.exchange(
        {
            "counts": {str(index): count.item() for index, count in counts.items()},
            "top": [together.item(), loss.item()] if last in counts else [0.0, 0.0],
        }
    )
    right: Counter[int] = Counter()
    for each in found:
        right.update({int(index): count for index, count in each["counts"].items()})
    ensemble_right, total_loss = map(sum, zip(*(each["top"] for each in found), strict=True))
    *accuracies, ensemble_accuracy = (
        torch.tensor([*(right[index] for index in sorted(right)), ensemble_right]) / len(dataset)
    ).tolist()
    return Evaluation(total_loss / len(dataset), accuracies, ensemble_accuracy, sorted(right))


def _hits(votes: Tensor, labels: Tensor) -> Tensor:
    """Return how many images are in the class of most votes."""
    return (votes.argmax(1) == labels).sum()


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
