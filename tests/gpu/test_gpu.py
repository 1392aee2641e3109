"""On a GPU; what ``python -m benchmarks gpu`` checks as well, where there is no pytest."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_ranks import RANK_CHECKS


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*CHECKS, *RANK_CHECKS])
def test_on_a_gpu(name: str) -> None:
    {**CHECKS, **RANK_CHECKS}[name](torch.device("cuda"))
