"""Imports NNI's search spaces for PyTorch without their warnings.

When it is imported, ``nni.nas.nn.pytorch`` wraps whatever ``torch.nn`` holds and emits a
RuntimeWarning for every class that is newer than NNI 3.0. Nothing of ours uses those wrappers.
Importing `search_spaces` before any other part of ``nni.nas`` is enough, because Python imports a
module once.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"nni\.nas\.nn\.pytorch")
    from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import SimplifiedModelSpace
from nni.nas.strategy.utils import DuplicationError

__all__ = ["DuplicationError", "ModelSpace", "SimplifiedModelSpace"]
