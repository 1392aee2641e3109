"""`trials.claims`: what a training in parallel computes on."""

from __future__ import annotations

import pytest
import torch

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.claims import claim_for_training

CPU = torch.device("cpu")
WHOLE = Decoupling(backbone="vgg11")
CUT = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
BLOCKS = TrainSettings.model_validate({"parallel": {"name": "blocks", "replicas": [2, 1]}})


def test_one_for_each_process_if_there_are_several() -> None:
    with claim_for_training("cpu", TrainSettings(), CUT) as device:
        assert device == CPU
    with claim_for_training("cpu", BLOCKS, WHOLE) as device:
        assert device == CPU
    with claim_for_training("cpu", BLOCKS, CUT) as devices:
        assert devices == [CPU] * 3


def test_under_a_launcher_each_process_has_the_one_of_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launcher = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**launcher, "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with claim_for_training("auto", BLOCKS, CUT) as devices:
        assert devices == [torch.device("cuda", 1)] * 3
    with claim_for_training("cpu", BLOCKS, CUT) as devices:
        assert devices == [CPU] * 3
    monkeypatch.setenv("LOCAL_RANK", "2")
    rule = "LOCAL_RANK: must be below the number of this host's GPUs, 2, or the device cpu, but got"
    with pytest.raises(InputError, match=rule), claim_for_training("auto", BLOCKS, CUT):
        pass
