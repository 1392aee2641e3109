"""The plain network that a training has come to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sedona_nni.data.expected_images import IMAGES_FILE, ExpectedImages
from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.training.task_backbone import backbone_for
from sedona_nni.training.weights import MODEL_FILE, load_weights
from sedona_nni.trials.finished import finished_results, model_folder
from sedona_nni.trials.run import RUN_FILE
from sedona_nni.trials.train import TrainingRun

__all__ = ["trained_plain_model"]


def trained_plain_model(directory: Path) -> tuple[nn.Module, ExpectedImages]:
    """Return the plain network of a finished training, and what its images are.

    It is the model from elsewhere itself, as its own code builds it, or our backbone; in either
    case without cuts and auxiliary networks, and on the CPU. The data set is not needed, but for a
    directory of a version that left no ``images.json``.

    Args:
        directory: Where it was trained, or the results of an experiment.

    Raises:
        InputError: if it has not finished, a file is missing or does not hold what it should, or
            the network has contexts, which are no part of a plain one.
    """
    folder = model_folder(directory)
    run = TrainingRun.load(folder / RUN_FILE)
    if isinstance(run.decoupling, Decoupling) and {"image", "previous"} & {*run.decoupling.kinds}:
        rule = "must have no context to be a plain network again"
        raise InputError.rule(f"{folder}: decoupling", rule, run.decoupling.aux)
    if finished_results(folder) is None:
        raise InputError(f"{folder}: must hold a training that has finished, but it has not")
    if (folder / IMAGES_FILE).exists():
        images = ExpectedImages.load(folder / IMAGES_FILE)
    else:
        images = ExpectedImages.of(load_splits(run.task, run.settings.validation_fraction))
    height, width = images.image_size
    size: ImageSize = height if height == width else (height, width)
    with torch.random.fork_rng(devices=[]):
        backbone = backbone_for(run.task, len(images.classes), size)
        if isinstance(run.decoupling, Decoupling):
            network = build_decoupled(backbone, run.decoupling)
        else:
            network = build_relaxed(backbone, run.decoupling)
    load_weights(network, folder / MODEL_FILE)
    return backbone.plain, images
