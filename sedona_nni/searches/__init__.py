"""Searches for decouplings, one folder each, and how they are known by name.

A new one is a folder with a subclass of `SearchKind`, see `sedona_nni.searches.kind`; ours are
listed here.
"""

from sedona_nni.searches.kind import (
    SEARCHES,
    Findings,
    SearchKind,
    SearchSetup,
    register_search,
)
from sedona_nni.searches.probing.kind import Probing
from sedona_nni.searches.sedona.kind import Sedona
from sedona_nni.searches.slopes.kind import Slopes

__all__ = ["SEARCHES", "Findings", "SearchKind", "SearchSetup", "register_search"]

register_search(Sedona())
register_search(Probing())
register_search(Slopes())
