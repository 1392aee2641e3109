"""The authors' release, run from a clone of it; nothing of it is part of this project.

Clone https://github.com/mjpyeon/sedona wherever you like. It is written for PyTorch 1.6 and CUDA.
With today's PyTorch its search runs as it is, on the CPU too, when three things are done from
outside: its settings are read from ``sys.argv`` when it is imported; its `SEDONA.init_models`,
which asks for a GPU and pre-trains, is replaced by the parts of it that build the network; and
`six`, which it imports to read data sets but never uses, need not be installed.

Its meta-step does what ours does and, of the same T steps, differentiates the last training loss
instead of the validation loss (docs/method.md, section 7): a little less to differentiate.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.search_steps import LR, MOMENTUM, WEIGHT_DECAY, StepSetting
from sedona_nni.errors import InputError

__all__ = ["check_release", "release"]


def check_release(setting: StepSetting) -> None:
    """Check that the release is there and can compute this.

    Raises:
        InputError: if not.
    """
    path = setting.release_path
    if path is None or not (path / "sedona.py").is_file():
        raise InputError.rule("--release-path", "must be a clone of mjpyeon/sedona", str(path))
    if not re.fullmatch(r"vgg\d+|resnet\d+", setting.backbone):
        raise InputError.rule("--backbone", "must be one of the release's", setting.backbone)
    if (setting.image_size, setting.num_classes) != (32, 10):
        raise InputError("--against release: images must be of 32 pixels and 10 classes")
    if setting.width_multiplier != int(setting.width_multiplier):
        raise InputError.rule(
            "--width-multiplier", "must be whole for the release", setting.width_multiplier
        )
    if setting.aux != tuple(f"conv{depth}" for depth in range(1, len(setting.aux) + 1)):
        raise InputError.rule("--aux", "must be conv1 to convN for the release", setting.aux)


def release(setting: StepSetting) -> Callable[[], object]:
    """Prepare the step as the release computes it."""
    assert setting.release_path is not None
    sys.modules.setdefault("six", types.ModuleType("six"))
    sys.path.insert(0, str(setting.release_path))
    options = {
        "--name": setting.backbone,
        "--max-dec-depth": len(setting.aux),
        "--feat-mult": int(setting.width_multiplier),
        "--lr": LR,
        "--momentum": MOMENTUM,
        "--weight-decay": WEIGHT_DECAY,
    }
    sys.argv = ["release", *(str(word) for option in options.items() for word in option)]
    warnings.simplefilter("ignore")  # meant for its authors
    models, decoder, sedona, train = map(
        importlib.import_module, ("models", "decoder", "sedona", "train")
    )
    assert Path(str(sedona.__file__)).parent == setting.release_path

    torch.manual_seed(0)
    search: Any = sedona.SEDONA.__new__(sedona.SEDONA)
    search.base_device = torch.device(setting.device)
    search.devices, search.max_step, search.time_step = [search.base_device], 64_000, 0
    search.buffer_scalar = {}
    (network,) = models.get_model(
        setting.backbone, decoder=decoder.MixedPredConvLightDecoder, return_devices=False
    )
    search.model = network.to(search.base_device)
    search.init_optimizers()
    search.init_variables()
    train_batches, validation_batch = setting.batches()
    step = partial(
        train.continuous_train_step,
        *train_batches[0],
        0,
        search.model,
        search.optimizer,
        search.alpha.data,
        search.beta.data,
        device=search.base_device,
    )
    if setting.step == "relaxed-step":
        return step
    step()  # momentum exists in a search
    return partial(search.diff_step, train_batches, [validation_batch], setting.inner_steps, 1)
