"""The authors' release is driven to do the same work, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_sides import SMALL

from benchmarks.release import check_release
from benchmarks.search_steps import StepSetting
from sedona_nni.errors import InputError

ROOT = Path(__file__).parents[2]


class TestRelease:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> StepSetting:
        """A stand-in for the release: modules and functions of the same names."""
        (tmp_path / "models.py").write_text(
            "import sys, torch\n"
            "settings = sys.argv[1:]\n"
            "def get_model(arch, decoder, return_devices):\n"
            "    return [torch.nn.Linear(1, 1)]\n"
        )
        (tmp_path / "decoder.py").write_text("import six\nMixedPredConvLightDecoder = None\n")
        (tmp_path / "train.py").write_text(
            "def continuous_train_step(x, y, step, model, optimizer, alpha, beta, device):\n"
            "    print('trained on', len(x))\n"
        )
        (tmp_path / "sedona.py").write_text(
            "import models, torch\n"
            "class SEDONA:\n"
            "    def init_optimizers(self): self.optimizer = None\n"
            "    def init_variables(self): self.alpha = self.beta = torch.zeros(1, 2)\n"
            "    def diff_step(self, train, validation, steps, batches):\n"
            "        print('looked', len(train), steps, len(validation), batches)\n"
            "        print(*models.settings)\n"
        )
        values = {**SMALL.model_dump(), "aux": ["conv1", "conv2"], "width_multiplier": 2.0}
        return StepSetting.model_validate({**values, "inner_steps": 3, "release_path": tmp_path})

    @pytest.mark.slow(reason="a process of its own")
    def test_driver_does_the_same_work(self, clone: StepSetting) -> None:
        """In a process of its own, as it changes sys.path and sys.argv."""
        code = f"""if True:
            from benchmarks.release import check_release, release
            from benchmarks.search_steps import StepSetting
            setting = StepSetting.model_validate_json({clone.model_dump_json()!r})
            check_release(setting)
            release(setting)()
        """
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [
            "trained on 2",
            "looked 3 3 1 1",
            "--name vgg11 --max-dec-depth 2 --feat-mult 2 --lr 0.01 --momentum 0.9 "
            "--weight-decay 0.0001",
        ]

    @pytest.mark.parametrize(
        "change",
        [
            {"release_path": None},
            {"backbone": "dni-cnn"},
            {"image_size": 64},
            {"num_classes": 5},
            {"width_multiplier": 0.5},
            {"aux": ("conv2", "conv1")},
            {"aux": ("conv1", "mlp")},
        ],
    )
    def test_refuses_what_it_cannot_compute(
        self, change: dict[str, Any], clone: StepSetting
    ) -> None:
        check_release(clone)
        with pytest.raises(InputError):
            check_release(clone.model_copy(update=change))
