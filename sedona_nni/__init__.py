"""SEDONA and decoupled greedy learning: where to cut a network into blocks that train alone.

The search is `sedona_nni.search`, its mathematics `relaxation`, `inner_step` and `hypergradient`;
the training of a decoupled network is `training`. This package knows nothing of NNI, Lightning or
Optuna; ``search_spaces``, ``strategies`` and ``trials`` plug it into them.
"""

from sedona_nni.decoupling import Decoupling, SearchResult
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.task import Task

__all__ = ["Decoupling", "InputError", "SearchResult", "SedonaError", "Task", "__version__"]

__version__ = "0.1.0"
