"""SEDONA and decoupled greedy learning: where to cut a network into blocks that train alone.

The rooms, each of which imports only those before it: `models`, `teachers`, `decouplings`, `data`,
`training`, `searches`, `reporting`. None of them knows NNI, Lightning or Optuna; `search_spaces`,
`strategies` and `trials` plug them into these, and `command_line` is above all.
"""

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task

__all__ = ["Decoupling", "InputError", "SearchResult", "SedonaError", "Task", "__version__"]

__version__ = "0.1.0"
