"""InfoPro's, AugLocal's and FDG's published comparisons: every row can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.models import build_backbone
from sedona_nni.strategies.experiment import read_experiment
from sedona_nni.strategies.plan import decoupling_of
from sedona_nni.strategies.settings.tuned import TunedSettings, plan_of, train_settings
from sedona_nni.training.methods.delayed_gradients import DelayedGradientsSettings

FOLDER = Path(__file__).parents[2] / "experiments" / "teachers"
# Number of blocks of every row, by file
BLOCKS = {
    "infopro_resnet32": {"k2": 2, "k4": 4, "k8": 8, "k16": 16, "backprop": 1},
    "infopro_resnet110": {
        **{"k2": 2, "k4": 4, "k8": 8, "k16": 16, "backprop": 1},
        **{"balanced-k2": 2, "balanced-k3": 3, "balanced-k4": 4},
    },
    "auglocal_resnet32": {
        **dict.fromkeys(("aug1", "aug3", "aug5", "dgl", "similar", "infopro"), 16),
        "backprop": 1,
    },
    "auglocal_resnet110": {
        **dict.fromkeys(("aug1", "aug3", "aug5", "dgl", "similar", "infopro"), 55),
        "backprop": 1,
    },
    "fdg_resnet56": {
        **{f"{name}-k{k}": k for k in (2, 3, 4) for name in ("ddg", "fr", "fdg", "dgl")},
        "backprop": 1,
    },
}


def settings_of(name: str) -> TunedSettings:
    settings = read_experiment(FOLDER / f"{name}.yml").settings
    assert isinstance(settings, TunedSettings)
    return settings


def rows(name: str) -> dict[str, DecoupledNetwork]:
    """Build what the tuner would hand out, without weights."""
    settings = settings_of(name)
    plan = plan_of(settings, FOLDER)
    built = {}
    for contender in plan.contenders:
        decoupling = decoupling_of(plan, contender, {})
        assert decoupling is not None
        train_settings(settings, contender.strategy).check_aux(decoupling.aux)
        with torch.device("meta"):
            backbone = build_backbone(settings.training.task.backbone, num_classes=10)
            built[contender.name] = build_decoupled(backbone, decoupling)
    return built


def test_all_are_here() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yml")) == sorted(BLOCKS)
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.yml`" in text for name in BLOCKS)


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_row_can_be_built(name: str) -> None:
    """With every layer of the backbone in some block."""
    built = rows(name)
    assert {row: len(network.blocks) for row, network in built.items()} == BLOCKS[name]
    sizes = {sum(count_parameters(b.layers) for b in network.blocks) for network in built.values()}
    assert len(sizes) == 1


def test_rows_of_delayed_gradients() -> None:
    settings = settings_of("fdg_resnet56")
    for k in (2, 3, 4):
        found = [train_settings(settings, f"{name}-k{k}").method for name in ("ddg", "fr", "fdg")]
        assert found == [
            DelayedGradientsSettings(),
            DelayedGradientsSettings(replay=True),
            DelayedGradientsSettings(beta=0.5),
        ]
        assert train_settings(settings, f"dgl-k{k}").method.name == "greedy"
