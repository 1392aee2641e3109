"""Methods of training a decoupled network, one algorithm per file.

A new one is a file with a subclass of `MethodSettings` and one of `TrainingMethod`, which
`register_method` brings together; ours are listed here.
"""

from sedona_nni.training.methods.block_step import block_step
from sedona_nni.training.methods.method import TrainingMethod, build_method, register_method

# Lists name them in this order
# isort: off
from sedona_nni.training.methods.greedy import GreedyLearning, GreedySettings
from sedona_nni.training.methods.asynchronous import AsynchronousLearning, AsynchronousSettings
from sedona_nni.training.methods.delayed_gradients import DelayedGradients, DelayedGradientsSettings
from sedona_nni.training.methods.sequential import SequentialLearning, SequentialSettings
from sedona_nni.training.methods.synthetic_gradients import (
    SyntheticGradients,
    SyntheticGradientsSettings,
)
# isort: on

__all__ = [
    "AsynchronousLearning",
    "AsynchronousSettings",
    "DelayedGradients",
    "DelayedGradientsSettings",
    "GreedyLearning",
    "GreedySettings",
    "SequentialLearning",
    "SequentialSettings",
    "SyntheticGradients",
    "SyntheticGradientsSettings",
    "TrainingMethod",
    "block_step",
    "build_method",
    "register_method",
]
