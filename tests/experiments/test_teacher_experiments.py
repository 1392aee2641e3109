"""Comparisons of teachers, InfoPro's, AugLocal's and FDG's and ours: every row can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sedona_nni.decouplings.cost import count_parameters
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.strategies.experiment import read_experiment
from sedona_nni.strategies.plan import decoupling_of
from sedona_nni.strategies.settings.tuned import TunedSettings, plan_of, train_settings
from sedona_nni.training.methods.delayed_gradients import DelayedGradientsSettings
from sedona_nni.training.task_backbone import task_backbone

FOLDER = Path(__file__).parents[2] / "experiments" / "teachers"
COMPARED = (
    *("conv1", "conv4", "mlp-sr", "linear", "predsim", "aug1", "infopro", "infopro-contrast"),
    *("recon", "man", "man-scaled", "barlow", "image", "previous", "overlap", "transport"),
    *("ddg", "fr", "fdg", "adl"),
)
OURS = {
    **{f"{name}-k{k}": k for k in (2, 4, 8) for name in COMPARED},
    **dict.fromkeys(("backprop", "backprop-checkpointed", "backprop-4x"), 1),
}
# Number of blocks of every row that needs no search, by file
BLOCKS = {
    "compare_vgg13": OURS,
    "compare_resnet18": OURS,
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
        if contender.strategy in plan.searches:
            continue
        decoupling = decoupling_of(plan, contender, {})
        assert decoupling is not None
        train_settings(settings, contender.strategy).check_aux(decoupling.aux)
        with torch.device("meta"):
            backbone = task_backbone(settings.training.task)
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


def test_rows_of_ours() -> None:
    """At most a method, or an option of any, apart from the cuts."""
    settings = settings_of("compare_vgg13")
    assert train_settings(settings, "barlow-k4").views == 2
    assert train_settings(settings, "transport-k8").transport == 0.00001
    assert train_settings(settings, "backprop-checkpointed").checkpoint == "layers"
    assert train_settings(settings, "backprop-4x").epochs == 20
    for k in (2, 4, 8):
        found = [train_settings(settings, f"{n}-k{k}").method for n in ("ddg", "fr", "fdg", "adl")]
        assert found == [
            DelayedGradientsSettings(),
            DelayedGradientsSettings(replay=True),
            DelayedGradientsSettings(beta=0.5),
            DelayedGradientsSettings(update_every=2),
        ]
