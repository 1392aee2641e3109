"""Models that are cut: searched, and trained as the search says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.models import build_backbone
from sedona_nni.searches.documents import parse_result
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import run_training

AUX = ["linear", "conv1"]
SETTINGS = TrainSettings(epochs=1, batch_size=20)


@pytest.mark.parametrize("model", ["vit", "convnext"])
def test_from_probing_to_a_trained_network(model: str, tmp_path: Path) -> None:
    """With a bound on shares of MACs, and beside it a random decoupling within the same."""
    name = {"model": f"small_models:{model}", "train_limit": 80}
    task = Task.model_validate({**name, "image_size": 16})
    found = run_search("probe", task, ProbeSettings(), aux=AUX, train=SETTINGS)
    with torch.device("meta"):
        backbone = build_backbone(task.backbone, num_classes=10, image_size=16)
    bound = BlockBound(compute_in_macs(backbone, AUX), "1.7/K")
    chosen = discretise(parse_result(found["search_result"]), 2, bound)
    drawn = bound.random(2, AUX, np.random.default_rng(0))
    for place, decoupling in (("chosen", chosen), ("drawn", drawn)):
        results = run_training(task, decoupling, SETTINGS, directory=tmp_path / place)
        assert results["sizes"] == [shape.size for shape in backbone.shapes]
        assert results["compute"]["layers"] == bound.compute.layers
