"""NNI model spaces: where a backbone is cut, and with which auxiliary networks."""

from sedona_nni.search_spaces.decoupling_space import DecouplingSpace, DistinctDecouplings

__all__ = ["DecouplingSpace", "DistinctDecouplings"]
